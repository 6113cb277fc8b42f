package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// A server that sends what kills or stalls connections of HTTP/2, frame by frame:
// /small 3,000 messages of one byte and no end, /empty/N so many empty frames before its
// end, /fill/N a header and a trailer of N bytes, /end/N such a trailer alone. Its answer to
// all else is the number of the connection.
func serveStalls(port string) {
	serveFrames(port, func(framer *http2.Framer, stream uint32, path string, number int) {
		stalling(framer, stream, path, fmt.Sprint(number))
	})
}

func stalling(framer *http2.Framer, stream uint32, path, number string) {
	switch {
	case path == "/small":
		fields(framer, stream, false, ":status", "200")
		for range 3000 {
			framer.WriteData(stream, false, []byte{1})
		}
	case strings.HasPrefix(path, "/empty/"):
		count, _ := strconv.Atoi(path[len("/empty/"):])
		fields(framer, stream, false, ":status", "200")
		for range count {
			framer.WriteData(stream, false, nil)
		}
		framer.WriteData(stream, true, []byte(number))
	case strings.HasPrefix(path, "/fill/"):
		size, _ := strconv.Atoi(path[len("/fill/"):])
		fill := strings.Repeat("f", size)
		fields(framer, stream, false, ":status", "200", "trailer", "x-end", "x-begin", fill)
		framer.WriteData(stream, false, []byte(number))
		fields(framer, stream, true, "x-end", fill)
	case strings.HasPrefix(path, "/end/"):
		size, _ := strconv.Atoi(path[len("/end/"):])
		fields(framer, stream, false, ":status", "200", "trailer", "x-end")
		framer.WriteData(stream, false, []byte(number))
		fields(framer, stream, true, "x-end", strings.Repeat("f", size))
	default:
		fields(framer, stream, false, ":status", "200")
		framer.WriteData(stream, true, []byte(number))
	}
}

func outcome(result map[string]any) string {
	if result["error"] != nil {
		return fmt.Sprint(result["error"])
	}
	return fmt.Sprint(result["status"])
}

// Exchanges of one kind, all on one connection, and how an ordinary one fares behind them.
func beside(to, kind string) {
	c := client(to)
	c.Timeout = 20 * time.Second
	url := "http://" + to
	before := get(c, url+"/x")
	ends := map[string]int{}
	switch kind {
	case "small":
		// Nobody reads them.
		for range 3 {
			response, err := c.Get(url + "/small")
			check(err)
			defer response.Body.Close()
			ends[fmt.Sprint(response.StatusCode)]++
		}
	case "empty":
		for range 5 {
			ends[outcome(get(c, url+"/empty/20"))]++
		}
	case "empty-row":
		ends[outcome(get(c, url+"/empty/10000"))]++
	case "refused":
		for range 1025 {
			request, err := http.NewRequest("GET", url+"/x", nil)
			check(err)
			request.Header.Set("Http2-Settings", "x")
			response, err := c.Do(request)
			check(err)
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
			ends[fmt.Sprint(response.StatusCode)]++
		}
	case "connect":
		request, err := http.NewRequest("CONNECT", url, strings.NewReader("12345"))
		check(err)
		response, err := c.Do(request)
		check(err)
		response.Body.Close()
		ends[fmt.Sprint(response.StatusCode)]++
	default:
		// A size, of the head as well or of the trailers alone.
		path := "/fill/" + kind
		if size, alone := strings.CutPrefix(kind, "end-"); alone {
			path = "/end/" + size
		}
		result := get(c, url+path)
		head, _ := result["header"].(http.Header)
		trailer, _ := result["trailer"].(http.Header)
		ends[fmt.Sprint(outcome(result), " ", len(head.Get("X-Begin")), len(trailer.Get("X-End")))]++
	}
	after := get(c, url+"/x")
	tell(map[string]any{"ends": ends, "after": after["status"], "same": before["body"] == after["body"]})
}
