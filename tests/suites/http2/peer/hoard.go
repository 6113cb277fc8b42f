package main

import (
	"bytes"
	"fmt"
	"net"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Clients that ask for more than they take, for so many seconds.
// unread: they read the connection, and give no stream any window.
// deaf: they give all the window there is, and read nothing.
func hoard(to, kind string, connections, streams, seconds int) {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":path", "/bytes/100000000"}, {":authority", to}} {
		encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]})
	}
	for range connections {
		connection, err := net.Dial("tcp", to)
		check(err)
		defer connection.Close()
		connection.Write([]byte(http2.ClientPreface))
		framer := http2.NewFramer(connection, connection)
		window := uint32(0)
		if kind == "deaf" {
			window = 1<<31 - 1
		}
		framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
		if kind == "deaf" {
			framer.WriteWindowUpdate(0, 1<<30)
		} else {
			go func() {
				for {
					if _, err := framer.ReadFrame(); err != nil {
						return
					}
				}
			}()
		}
		for i := range streams {
			err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(2*i + 1), BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
			check(err)
		}
	}
	fmt.Println("open")
	time.Sleep(time.Duration(seconds) * time.Second)
	tell("done")
}
