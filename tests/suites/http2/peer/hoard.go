package main

import (
	"fmt"
	"net"
	"runtime"
	"time"

	"golang.org/x/net/http2"
)

// Clients that ask for more than they take, for so many seconds.
// unread: they read the connection, and give no stream any window.
// deaf: they give all the window there is, and read nothing.
func hoard(to, kind string, connections, streams, seconds int) {
	var framers []*http2.Framer
	for range connections {
		window := uint32(0)
		if kind == "deaf" {
			window = 1<<31 - 1
		}
		patience := time.Duration(seconds)*time.Second + time.Minute
		framer := dialFrames(to, patience, http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
		framers = append(framers, framer)
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
			getRequest(framer, uint32(2*i+1), to, "/bytes/100000000")
		}
	}
	fmt.Println("open")
	time.Sleep(time.Duration(seconds) * time.Second)
	// What nobody has any more would be closed.
	runtime.KeepAlive(framers)
	tell("done")
}

// A client on a slow line: it gives all the window there is and takes so many bytes a second.
func sip(to, path string, rate int) {
	connection, err := net.Dial("tcp", to)
	check(err)
	check(connection.(*net.TCPConn).SetReadBuffer(32768))
	connection.SetDeadline(time.Now().Add(time.Minute))
	connection.Write([]byte(http2.ClientPreface))
	slow := &slowly{Conn: connection, rate: rate}
	framer := framing(slow, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1<<31 - 1})
	framer.WriteWindowUpdate(0, 1<<30)
	getRequest(framer, 1, to, path)
	status, body, cut := answered(framer, 1)
	for cut == "goaway NO_ERROR" {
		var late string
		var more []byte
		late, more, cut = answered(framer, 1)
		status, body = status+late, append(body, more...)
	}
	tell([]any{status, len(body), cut})
}

// It says when the first bytes have come.
type slowly struct {
	net.Conn
	rate int
	open bool
}

func (s *slowly) Read(into []byte) (int, error) {
	n, err := s.Conn.Read(into[:min(len(into), 4096)])
	if !s.open {
		fmt.Println("open")
		s.open = true
	}
	time.Sleep(time.Duration(n) * time.Second / time.Duration(s.rate))
	return n, err
}
