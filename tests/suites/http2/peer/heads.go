package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// A client that sends heads and trailers of so many bytes, whatever it was told of the most,
// all on one connection.
func heads(to string, sizes []string) {
	framer := dialFrames(to, 20*time.Second, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	framer.WriteWindowUpdate(0, 16<<20)
	streams := uint32(0)
	begin := func(path string, more ...string) uint32 {
		stream := 2*streams + 1
		streams++
		head := []string{":method", "POST", ":scheme", "http", ":path", path, ":authority", to, "trailer", "x-end"}
		fields(framer, stream, false, append(head, more...)...)
		return stream
	}
	begin("/open")
	told := map[string]any{"head": []string{}, "trailers": []string{}}
	for _, size := range sizes {
		fill := strings.Repeat("f", number(size))
		stream := begin("/x", "x-begin", fill)
		framer.WriteData(stream, true, nil)
		told["head"] = append(told["head"].([]string), ended(framer, stream, false))
		stream = begin("/x")
		fields(framer, stream, true, "x-end", fill)
		told["trailers"] = append(told["trailers"].([]string), ended(framer, stream, true))
	}
	stream := begin("/x")
	framer.WriteData(stream, true, nil)
	told["after"] = ended(framer, stream, true)
	tell(told)
}

// How a stream ends, and how much the server saw of what it was sent.
func ended(framer *http2.Framer, stream uint32, trailers bool) string {
	status, body, cut := answered(framer, stream)
	if cut != "" {
		status = cut
	}
	var seen told
	json.Unmarshal(body, &seen)
	lines, name := seen.Headers, "X-Begin"
	if trailers {
		lines, name = seen.Trailer, "X-End"
	}
	return fmt.Sprint(status, " ", len(strings.Join(lines[name], "")))
}

// The lines that the server saw of a head with these, in the order of names and values.
func lines(to string, pairs []string) {
	framer := dialFrames(to, 20*time.Second)
	head := []string{":method", "GET", ":scheme", "http", ":path", "/head", ":authority", to}
	fields(framer, 1, true, append(head, pairs...)...)
	_, body, cut := answered(framer, 1)
	if cut != "" {
		tell(cut)
		return
	}
	tell(json.RawMessage(body))
}
