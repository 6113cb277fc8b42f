package main

import (
	"bytes"
	"time"

	"golang.org/x/net/http2"
)

// A client that keeps to the frames and to nothing else. Tells how it was sent away.
func flood(to, kind string, count int) {
	framer := dialFrames(to, 20*time.Second)
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
			if head, ok := frame.(*http2.MetaHeadersFrame); ok {
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
	head := block(":method", "GET", ":scheme", "http", ":path", path, ":authority", to)
	headers := func(stream uint32, end, whole bool) error {
		return framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head, EndStream: end, EndHeaders: whole})
	}
	// A large entry of the table, and a head that names it often.
	entry := block(":method", "GET", ":scheme", "http", ":path", path, ":authority", to)
	entry = append(entry, 0x40, 1, 'x', 0x7f, 0xa1, 0x1e)
	entry = append(entry, bytes.Repeat([]byte{'y'}, 4000)...)
	bomb := append([]byte{0x82, 0x86, 0x84, 0x01, byte(len(to))}, to...)
	short := bytes.Clone(bomb)
	bomb = append(bomb, bytes.Repeat([]byte{0x80 | 62}, 16000)...)
	// A line in each byte, and none of them says anything.
	name := append(bytes.Clone(head), 0x40, 1, 'a', 0)
	lines := 15800
	if kind == "crumbs" {
		lines = 500
	}
	crumbs := bytes.Repeat([]byte{0x80 | 62}, lines)
	short = append(short, crumbs...)
	switch kind {
	case "bomb":
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: entry, EndStream: true, EndHeaders: true})
	case "lines", "crumbs":
		framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
		framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: name, EndStream: true, EndHeaders: true})
	case "table":
		framer.ReadMetaHeaders.SetAllowedMaxDynamicTableSize(1<<32 - 1)
	case "zero-window":
		framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
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
		case "table":
			size := []uint32{0, 1<<32 - 1}[i%2]
			err = framer.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: size})
			if i%100 == 0 {
				headers(uint32(2*(i/100)+1), true, true)
			}
		case "bomb":
			err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream + 2, BlockFragment: bomb, EndStream: true, EndHeaders: true})
		case "lines":
			err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream + 2, BlockFragment: short, EndHeaders: true})
		case "crumbs":
			// As many behind it, which wait for the end of its answer.
			framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream + 2, BlockFragment: short, EndHeaders: true})
			err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream + 2, BlockFragment: crumbs, EndStream: true, EndHeaders: true})
		case "priority":
			on := http2.PriorityParam{StreamDep: stream + 2, Weight: uint8(i), Exclusive: i%2 == 0}
			err = framer.WritePriority(stream, on)
		case "zero-window":
			// Nobody takes the answer.
			err = headers(stream, true, true)
		case "byte-windows":
			err = framer.WriteWindowUpdate(0, 1)
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
