package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// A server whose answers come when their path says so, /KIND/NAME/MS: it gives that answer
// so many ms after the head of the request, and the one that has not this name (`all` is
// everybody's) says nothing, or answers with 200 after /KIND/NAME/MS/OTHERS. Of kind `half`
// are the begin of an answer and its reset, in one write; `fail` is 503, `tardy` one whose
// body comes 400 ms later, and `unavailable` gRPC's status, alone or, as
// `unavailable-behind`, after a message. `asked` has how many of all of these there were.
func serveTimed(name, port string) {
	listener, err := net.Listen("tcp", ":"+port)
	check(err)
	for {
		connection, err := listener.Accept()
		check(err)
		go timed(name, connection)
	}
}

// Requests that this server was asked for.
var timedAsked atomic.Int64

// How an answer of gRPC begins, and an empty message.
var (
	beginGRPC   = []string{":status", "200", "content-type", "application/grpc"}
	messageGRPC = []byte{0, 0, 0, 0, 0}
)

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
			if path[1] == "asked" {
				count := fmt.Sprint(timedAsked.Load())
				later(connection, 0, func(framer *http2.Framer) {
					fields(framer, stream, false, ":status", "200")
					framer.WriteData(stream, true, []byte(count))
				})
				continue
			}
			timedAsked.Add(1)
			isMine, after := path[2] == name || path[2] == "all", number(path[3])
			isGRPC := strings.HasPrefix(path[1], "unavailable")
			switch {
			case isMine && isGRPC:
				later(connection, after, func(framer *http2.Framer) {
					status := []string{"grpc-status", "14", "grpc-message", "failed"}
					if path[1] == "unavailable" {
						fields(framer, stream, true, append(beginGRPC, status...)...)
						return
					}
					fields(framer, stream, false, beginGRPC...)
					framer.WriteData(stream, false, messageGRPC)
					fields(framer, stream, true, status...)
				})
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
			case len(path) > 4 && isGRPC:
				later(connection, number(path[4]), func(framer *http2.Framer) {
					fields(framer, stream, false, append(beginGRPC, "x-name", name)...)
					framer.WriteData(stream, false, messageGRPC)
					fields(framer, stream, true, "grpc-status", "0")
				})
			case len(path) > 4:
				later(connection, number(path[4]), func(framer *http2.Framer) {
					fields(framer, stream, false, ":status", "200", "x-name", name)
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

// So many requests for one path, one after the other on one connection, each for up to 4 s:
// how often each server answered, and which failure came how often.
func ends(to, path string, count int) {
	c := client(to)
	c.Timeout = 4 * time.Second
	counts := map[string]int{}
	for range count {
		request, err := http.NewRequest("GET", "http://"+to+path, nil)
		if strings.HasPrefix(path, "/unavailable") {
			request, err = http.NewRequest("POST", "http://"+to+path, bytes.NewReader(messageGRPC))
			request.Header.Set("Content-Type", "application/grpc")
			request.Header.Set("TE", "trailers")
		}
		check(err)
		response, err := c.Do(request)
		if err == nil {
			_, err = io.Copy(io.Discard, response.Body)
			response.Body.Close()
		}
		if err != nil {
			counts[failure(err)]++
			continue
		}
		counts[cameOf(response)]++
	}
	tell(counts)
}

// Who answered, or the status of a failure.
func cameOf(response *http.Response) string {
	if name := response.Header.Get("X-Name"); name != "" {
		return name
	}
	for _, lines := range []http.Header{response.Trailer, response.Header} {
		if status := lines.Get("Grpc-Status"); status != "" {
			return "grpc " + status
		}
	}
	return fmt.Sprint(response.StatusCode)
}
