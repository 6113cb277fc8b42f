package main

import (
	"time"

	"golang.org/x/net/http2"
)

// Three calls on one connection to where one may be in flight: the first goes on, the second
// waits for its place until its deadline is over and does not end its own side, the third
// waits behind that. Then the first is taken back.
func behind(to string) {
	framer := dialFrames(to, 20*time.Second)
	getRequest(framer, 1, to, "/open")
	begun(framer, 1)
	fields(framer, 3, false, ":method", "POST", ":scheme", "http", ":path", "/x", ":authority", to,
		"content-type", "application/grpc", "grpc-timeout", "200m")
	late := begun(framer, 3).PseudoValue("status")
	getRequest(framer, 5, to, "/x")
	framer.WriteRSTStream(1, http2.ErrCodeCancel)
	next, _, cut := answered(framer, 5)
	tell(map[string]any{"late": late, "next": next + cut})
}

// The head of an answer.
func begun(framer *http2.Framer, stream uint32) *http2.MetaHeadersFrame {
	for {
		frame, err := next(framer)
		check(err)
		if head, is := frame.(*http2.MetaHeadersFrame); is && head.StreamID == stream {
			return head
		}
	}
}
