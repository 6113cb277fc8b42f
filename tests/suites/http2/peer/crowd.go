package main

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// So many streams on each of so many connections, all at once and all left open; says how
// many were answered how.
func crowd(to, kind string, connections, streams int) {
	var all sync.WaitGroup
	var lock sync.Mutex
	ends := map[string]int{}
	// What nobody has any more would be closed.
	var held []*http.Response
	one := func(c *http.Client) {
		defer all.Done()
		request, err := http.NewRequest("GET", "http://"+to+"/open", nil)
		check(err)
		if kind == "grpc" {
			request.Header.Set("Content-Type", "application/grpc")
		}
		response, err := c.Do(request)
		lock.Lock()
		defer lock.Unlock()
		if err != nil {
			ends[failure(err)]++
			return
		}
		held = append(held, response)
		words := []string{fmt.Sprint(response.StatusCode)}
		for _, name := range []string{"Grpc-Status", "X-Mesh-Reason"} {
			if word := response.Header.Get(name); word != "" {
				words = append(words, word)
			}
		}
		ends[strings.Join(words, " ")]++
	}
	for range connections {
		c := client(to)
		for range streams {
			all.Add(1)
			go one(c)
		}
	}
	all.Wait()
	fmt.Println("open")
	tell(ends)
	time.Sleep(time.Minute)
	tell(len(held))
}
