package main

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
)

// A server that sends what kills or stalls connections of HTTP/2, frame by frame:
// /small 3,000 messages of one byte and no end, /empty/N so many empty frames before its
// end, /fill/N a header and a trailer of N bytes, /end/N such a trailer alone. Its answer to
// all else is the number of the connection. /held is open until the same connection is asked
// for /go, and tells the number of that in its head. Most: so many streams at once on one.
func serveStalls(port string, most []string) {
	settings := []http2.Setting{}
	for _, most := range most {
		settings = append(settings, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(number(most))})
	}
	var lock sync.Mutex
	held := map[int][]uint32{}
	serveFrames(port, func(framer *http2.Framer, stream uint32, path string, number int) {
		lock.Lock()
		defer lock.Unlock()
		switch path {
		case "/held":
			held[number] = append(held[number], stream)
			fields(framer, stream, false, ":status", "200", "x-number", fmt.Sprint(number))
			framer.WriteData(stream, false, []byte("begin "))
			return
		case "/go":
			for _, other := range held[number] {
				framer.WriteData(other, true, []byte("end"))
			}
		}
		if !killing(framer, stream, path) {
			stalling(framer, stream, path, fmt.Sprint(number))
		}
	}, settings...)
}

// Answers that no receiver takes as they are.
func killing(framer *http2.Framer, stream uint32, path string) bool {
	raw := func(more ...byte) {
		head := append(block(":status", "200"), more...)
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head, EndStream: true, EndHeaders: true})
	}
	switch path {
	case "/bad/name":
		fields(framer, stream, true, ":status", "200", "x a", "b")
	case "/bad/upper":
		fields(framer, stream, true, ":status", "200", "X-A", "b")
	case "/bad/value":
		fields(framer, stream, true, ":status", "200", "x-a", "b\r\nx-c: d")
	case "/bad/trailer":
		fields(framer, stream, false, ":status", "200")
		fields(framer, stream, true, "x-a", "b\nc")
	case "/bad/connection":
		fields(framer, stream, true, ":status", "200", "connection", "close")
	case "/bad/status":
		fields(framer, stream, true, ":status", "2x0")
	case "/bad/pseudo":
		fields(framer, stream, true, ":status", "200", "x-a", "b", ":path", "/")
	case "/bad/length":
		fields(framer, stream, false, ":status", "200", "content-length", "3")
		framer.WriteData(stream, true, []byte("longer"))
	case "/bad/index":
		// Of a table that has no such entry.
		raw(0xff, 0x80, 0x01)
	case "/bad/huffman":
		raw(0x00, 0x01, 'x', 0x84, 0xff, 0xff, 0xff, 0xff)
	case "/bad/table":
		// Larger than it was told.
		raw(0x3f, 0xe1, 0xff, 0xff, 0x7f)
	case "/bad/lines":
		lines := []string{":status", "200"}
		for range 2000 {
			lines = append(lines, "x-a", "b")
		}
		fields(framer, stream, true, lines...)
	default:
		return false
	}
	return true
}

// A killer beside an exchange of the same connection and one of another: what came of the
// killer, of either exchange, and of a request behind it on each connection.
func kill(to, path string) {
	url := "http://" + to
	type side struct {
		client *http.Client
		held   *http.Response
		number any
	}
	sides := map[string]*side{"own": {}, "other": {}}
	for _, one := range sides {
		one.client = client(to)
		one.client.Timeout = 20 * time.Second
		one.number = get(one.client, url+"/x")["body"]
		var err error
		one.held, err = one.client.Get(url + "/held")
		check(err)
		_, err = io.ReadFull(one.held.Body, make([]byte, len("begin ")))
		check(err)
	}
	told := map[string]any{"killer": outcome(get(sides["own"].client, url+path))}
	for name, one := range sides {
		after := get(one.client, url+"/go")
		rest, err := io.ReadAll(one.held.Body)
		end := string(rest)
		if err != nil {
			end = failure(err)
		}
		told[name] = []any{end, outcome(after), after["body"] == one.number}
	}
	tell(told)
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

// So many exchanges open at once on one connection: how many on each of the application's.
func spread(to string, count int) {
	c := client(to)
	// The application's settings come with its first answer.
	get(c, "http://"+to+"/x")
	numbers := map[string]int{}
	for range count {
		response, err := c.Get("http://" + to + "/held")
		check(err)
		defer response.Body.Close()
		numbers[response.Header.Get("X-Number")]++
	}
	tell(numbers)
}
