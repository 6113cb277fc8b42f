package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A server that sends what kills or stalls connections of HTTP/2, frame by frame:
// /small 3,000 messages of one byte and no end, /empty/N so many empty frames before its
// end, /fill/N a header and a trailer of N bytes. Its answer to all else is the number of the
// connection.
func serveStalls(port string) {
	listener, err := net.Listen("tcp", ":"+port)
	check(err)
	for number := 1; ; number++ {
		connection, err := listener.Accept()
		check(err)
		go stalls(connection, fmt.Sprint(number))
	}
}

func stalls(connection net.Conn, number string) {
	defer connection.Close()
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(connection, preface); err != nil {
		return
	}
	framer := http2.NewFramer(connection, connection)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.WriteSettings()
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return
		}
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				framer.WritePing(true, frame.Data)
			}
		case *http2.MetaHeadersFrame:
			stalling(framer, frame.StreamID, frame.PseudoValue("path"), number)
		}
	}
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
	default:
		fields(framer, stream, false, ":status", "200")
		framer.WriteData(stream, true, []byte(number))
	}
}

// Headers in as many frames as they need.
func fields(framer *http2.Framer, stream uint32, end bool, pairs ...string) {
	var buffer bytes.Buffer
	encoder := hpack.NewEncoder(&buffer)
	for i := 0; i < len(pairs); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	begin := buffer.Next(16384)
	framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: begin, EndStream: end, EndHeaders: buffer.Len() == 0})
	for buffer.Len() > 0 {
		next := buffer.Next(16384)
		framer.WriteContinuation(stream, buffer.Len() == 0, next)
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
		ends[outcome(get(c, url+"/empty/101"))]++
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
		// A size.
		result := get(c, url+"/fill/"+kind)
		head, _ := result["header"].(http.Header)
		trailer, _ := result["trailer"].(http.Header)
		ends[fmt.Sprint(outcome(result), " ", len(head.Get("X-Begin")), len(trailer.Get("X-End")))]++
	}
	after := get(c, url+"/x")
	tell(map[string]any{"ends": ends, "after": after["status"], "same": before["body"] == after["body"]})
}
