package main

import (
	"fmt"
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
