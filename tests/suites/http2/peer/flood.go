package main

import (
	"bytes"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A client that keeps to the frames and to nothing else. Tells how it was sent away.
func flood(to, kind string, count int) {
	connection, err := net.Dial("tcp", to)
	check(err)
	connection.SetDeadline(time.Now().Add(20 * time.Second))
	connection.Write([]byte(http2.ClientPreface))
	framer := http2.NewFramer(connection, connection)
	framer.WriteSettings()
	ended := make(chan string, 1)
	answered := make(chan uint32, 1000)
	go func() {
		for {
			frame, err := framer.ReadFrame()
			if err != nil {
				ended <- "closed"
				return
			}
			if away, ok := frame.(*http2.GoAwayFrame); ok {
				ended <- "goaway " + away.ErrCode.String()
				return
			}
			if head, ok := frame.(*http2.HeadersFrame); ok {
				answered <- head.StreamID
			}
			if ping, ok := frame.(*http2.PingFrame); ok && ping.IsAck() && string(ping.Data[:]) == "lastlast" {
				ended <- "alive"
				return
			}
		}
	}()
	path := "/x"
	switch kind {
	case "slow-reset":
		path = "/silent"
	case "leave":
		path = "/open"
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", path}, {":authority", to}} {
		encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	head := block.Bytes()
	headers := func(stream uint32, end, whole bool) error {
		return framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head, EndStream: end, EndHeaders: whole})
	}
	switch kind {
	case "continuation":
		headers(1, true, false)
	case "empty":
		headers(1, false, true)
	}
	for i := range count {
		var err error
		stream := uint32(2*i + 1)
		switch kind {
		case "reset":
			headers(stream, true, true)
			err = framer.WriteRSTStream(stream, http2.ErrCodeCancel)
		case "slow-reset":
			// Each is looked at before it is taken back.
			headers(stream, true, true)
			time.Sleep(time.Millisecond)
			err = framer.WriteRSTStream(stream, http2.ErrCodeCancel)
		case "leave":
			// Each has begun to answer before it is taken back.
			headers(stream, true, true)
			select {
			case <-answered:
				err = framer.WriteRSTStream(stream, http2.ErrCodeCancel)
			case how := <-ended:
				tell(how)
				return
			}
		case "continuation":
			err = framer.WriteContinuation(1, false, bytes.Repeat([]byte{0x40, 1, 'a', 1, 'b'}, 3000))
		case "empty":
			err = framer.WriteData(1, false, nil)
		case "ping":
			err = framer.WritePing(false, [8]byte{})
		case "settings":
			err = framer.WriteSettings()
		case "window":
			// Nobody may have more than 2^31-1.
			err = framer.WriteWindowUpdate(0, 1<<31-1)
		}
		if err != nil {
			break
		}
	}
	framer.WritePing(false, [8]byte{'l', 'a', 's', 't', 'l', 'a', 's', 't'})
	select {
	case how := <-ended:
		tell(how)
	case <-time.After(15 * time.Second):
		tell("no answer")
	}
}
