package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

func block(fields ...[2]string) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range fields {
		encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	return block.Bytes()
}

// A server that refuses streams: those of /refused always, of /once/ANY the first time.
// Any other answer is how many it has refused.
func serveUnwilling(port string) {
	listener, err := net.Listen("tcp", ":"+port)
	check(err)
	var lock sync.Mutex
	refused, known := 0, map[string]bool{}
	refuses := func(path string) bool {
		lock.Lock()
		defer lock.Unlock()
		is := path == "/refused" || strings.HasPrefix(path, "/once/") && !known[path]
		known[path] = true
		if is {
			refused++
		}
		return is
	}
	serve := func(connection net.Conn) {
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
				if refuses(frame.PseudoValue("path")) {
					framer.WriteRSTStream(frame.StreamID, http2.ErrCodeRefusedStream)
					continue
				}
				head := block([2]string{":status", "200"})
				framer.WriteHeaders(http2.HeadersFrameParam{StreamID: frame.StreamID, BlockFragment: head, EndHeaders: true})
				lock.Lock()
				told := fmt.Sprint(refused)
				lock.Unlock()
				framer.WriteData(frame.StreamID, true, []byte(told))
			}
		}
	}
	for {
		connection, err := listener.Accept()
		check(err)
		go serve(connection)
	}
}

// Requests one behind the other on one connection, none of them sent again by itself: the
// body of each, or the code of its reset.
func once(to string, paths []string) {
	connection, err := net.Dial("tcp", to)
	check(err)
	connection.SetDeadline(time.Now().Add(20 * time.Second))
	connection.Write([]byte(http2.ClientPreface))
	framer := http2.NewFramer(connection, connection)
	framer.WriteSettings()
	told := []string{}
	for i, path := range paths {
		stream := uint32(2*i + 1)
		head := block([2]string{":method", "GET"}, [2]string{":scheme", "http"}, [2]string{":path", path}, [2]string{":authority", to})
		check(framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: head, EndStream: true, EndHeaders: true}))
		body, ended := "", false
		for !ended {
			frame, err := framer.ReadFrame()
			check(err)
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					framer.WriteSettingsAck()
				}
			case *http2.DataFrame:
				body += string(frame.Data())
				ended = frame.StreamEnded()
			case *http2.RSTStreamFrame:
				body, ended = "reset "+frame.ErrCode.String(), true
			case *http2.GoAwayFrame:
				body, ended = "goaway "+frame.ErrCode.String(), true
			}
		}
		told = append(told, body)
	}
	tell(told)
}
