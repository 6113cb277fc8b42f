package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Connections of which each frame is written by hand.

// A client's, with its settings; for so long.
func dialFrames(to string, patience time.Duration, settings ...http2.Setting) *http2.Framer {
	connection, err := net.Dial("tcp", to)
	check(err)
	connection.SetDeadline(time.Now().Add(patience))
	connection.Write([]byte(http2.ClientPreface))
	return framing(connection, settings...)
}

// A server's: what becomes of each request, and the number of its connection.
func serveFrames(port string, answer func(framer *http2.Framer, stream uint32, path string, number int), settings ...http2.Setting) {
	listener, err := net.Listen("tcp", ":"+port)
	check(err)
	for number := 1; ; number++ {
		connection, err := listener.Accept()
		check(err)
		go func() {
			defer connection.Close()
			preface := make([]byte, len(http2.ClientPreface))
			if _, err := io.ReadFull(connection, preface); err != nil {
				return
			}
			framer := framing(connection, settings...)
			for {
				frame, err := next(framer)
				if err != nil {
					return
				}
				if head, is := frame.(*http2.MetaHeadersFrame); is && head.PseudoValue("path") == "/head" {
					// What it is asked, line by line.
					lines := [][2]string{}
					for _, field := range head.RegularFields() {
						lines = append(lines, [2]string{field.Name, field.Value})
					}
					body, _ := json.Marshal(lines)
					fields(framer, head.StreamID, false, ":status", "200")
					framer.WriteData(head.StreamID, true, body)
				} else if is {
					answer(framer, head.StreamID, head.PseudoValue("path"), number)
				}
			}
		}()
	}
}

func framing(connection net.Conn, settings ...http2.Setting) *http2.Framer {
	framer := http2.NewFramer(connection, connection)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	framer.WriteSettings(settings...)
	return framer
}

// The next frame that is about more than the connection: settings and pings are answered.
func next(framer *http2.Framer) (http2.Frame, error) {
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return nil, err
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
		default:
			return frame, nil
		}
	}
}

// What comes on a stream to its end: its status and body, and what cut it short.
func answered(framer *http2.Framer, stream uint32) (status string, body []byte, cut string) {
	for {
		frame, err := next(framer)
		if err != nil {
			return status, body, err.Error()
		}
		if away, is := frame.(*http2.GoAwayFrame); is {
			return status, body, "goaway " + away.ErrCode.String()
		}
		if frame.Header().StreamID != stream {
			continue
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			return status, body, "reset " + frame.ErrCode.String()
		case *http2.MetaHeadersFrame:
			if status == "" {
				status = frame.PseudoValue("status")
			}
			if frame.StreamEnded() {
				return
			}
		case *http2.DataFrame:
			body = append(body, frame.Data()...)
			if frame.StreamEnded() {
				return
			}
		}
	}
}

func block(pairs ...string) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for i := 0; i < len(pairs); i += 2 {
		encoder.WriteField(hpack.HeaderField{Name: pairs[i], Value: pairs[i+1]})
	}
	return block.Bytes()
}

// Headers in as many frames as they need.
func fields(framer *http2.Framer, stream uint32, end bool, pairs ...string) error {
	rest := bytes.NewBuffer(block(pairs...))
	begin := rest.Next(16384)
	err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: begin, EndStream: end, EndHeaders: rest.Len() == 0})
	for err == nil && rest.Len() > 0 {
		more := rest.Next(16384)
		err = framer.WriteContinuation(stream, rest.Len() == 0, more)
	}
	return err
}

func getRequest(framer *http2.Framer, stream uint32, to, path string) {
	check(fields(framer, stream, true, ":method", "GET", ":scheme", "http", ":path", path, ":authority", to))
}
