package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// A server whose answers come when their path says so, /KIND/NAME/MS: it gives that answer
// so many ms after the head of the request, and the one that has not this name says nothing,
// or answers with 200 after /KIND/NAME/MS/OTHERS. Of kind `half` are the begin of an answer
// and its reset, in one write; `fail` is 503, `tardy` one whose body comes 400 ms later.
func serveTimed(name, port string) {
	listener, err := net.Listen("tcp", ":"+port)
	check(err)
	for {
		connection, err := listener.Accept()
		check(err)
		go timed(name, connection)
	}
}

func timed(name string, connection net.Conn) {
	defer connection.Close()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(connection, preface); err != nil {
		return
	}
	framer := framing(connection)
	for {
		frame, err := next(framer)
		if err != nil {
			return
		}
		stream := frame.Header().StreamID
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			path := strings.Split(frame.PseudoValue("path"), "/")
			isMine, after := path[2] == name, number(path[3])
			switch {
			case isMine && path[1] == "half":
				later(connection, after, func(framer *http2.Framer) {
					fields(framer, stream, false, ":status", "200")
					framer.WriteRSTStream(stream, http2.ErrCodeInternal)
				})
			case isMine:
				ends := func(framer *http2.Framer) {
					framer.WriteData(stream, true, []byte("failed"))
				}
				later(connection, after, func(framer *http2.Framer) {
					fields(framer, stream, false, ":status", "503")
					if path[1] == "tardy" {
						later(connection, 400, ends)
					} else {
						ends(framer)
					}
				})
			case len(path) > 4:
				later(connection, number(path[4]), func(framer *http2.Framer) {
					fields(framer, stream, false, ":status", "200")
					framer.WriteData(stream, true, []byte("whole"))
				})
			}
		}
	}
}

// So many ms from now, all that it has to say in one write.
func later(connection net.Conn, ms int, says func(framer *http2.Framer)) {
	time.AfterFunc(time.Duration(ms)*time.Millisecond, func() {
		var frames bytes.Buffer
		says(http2.NewFramer(&frames, nil))
		connection.Write(frames.Bytes())
	})
}

// Each path in turn, on one connection, for up to 4 s: what came of it, and after how many ms
// the head of its answer did.
func timedCalls(to string, paths []string) {
	c := client(to)
	c.Timeout = 4 * time.Second
	results := []any{}
	for _, path := range paths {
		request, err := http.NewRequest("GET", "http://"+to+path, nil)
		check(err)
		begun := time.Now()
		response, err := c.Do(request)
		head := time.Since(begun).Milliseconds()
		result := read(response, err)
		result["head"] = head
		results = append(results, result)
	}
	tell(results)
}
