package main

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// A server that refuses streams: those of /refused always, of /once/ANY the first time. At
// the first /away/NAME it goes away, and has not taken that; /both/NAME it refuses, and
// goes away then. Any other answer is how many it has refused.
func serveUnwilling(name, port string) {
	var lock sync.Mutex
	refused, asked := 0, map[string]int{}
	// Whether it refuses the request, or leaves.
	unwilling := func(path string) (refuses, leaves bool) {
		lock.Lock()
		defer lock.Unlock()
		before := asked[path]
		asked[path]++
		isFirst := before == 0 && (strings.HasPrefix(path, "/once/") || path == "/both/"+name)
		refuses = path == "/refused" || isFirst
		leaves = before == 0 && path == "/away/"+name || before == 1 && path == "/both/"+name
		if refuses {
			refused++
		}
		return
	}
	serveFrames(port, func(framer *http2.Framer, stream uint32, path string, _ int) {
		refuses, leaves := unwilling(path)
		if refuses {
			framer.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
			return
		}
		if leaves {
			framer.WriteGoAway(stream-2, http2.ErrCodeNo, nil)
			return
		}
		fields(framer, stream, false, ":status", "200")
		lock.Lock()
		told := fmt.Sprint(refused)
		lock.Unlock()
		framer.WriteData(stream, true, []byte(told))
	})
}

// Requests one behind the other on one connection, none of them sent again by itself: the
// body of each, or the code of its reset.
func once(to string, paths []string) {
	framer := dialFrames(to, 20*time.Second)
	told := []string{}
	for i, path := range paths {
		stream := uint32(2*i + 1)
		getRequest(framer, stream, to, path)
		_, body, cut := answered(framer, stream)
		if cut != "" {
			body = []byte(cut)
		}
		told = append(told, string(body))
	}
	tell(told)
}
