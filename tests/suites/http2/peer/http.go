package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

var connections, cancelled atomic.Int64
var listening net.Listener
var tried sync.Map

type told struct {
	Name    string              `json:"name"`
	Proto   string              `json:"proto"`
	Method  string              `json:"method"`
	Host    string              `json:"host"`
	Path    string              `json:"path"`
	Headers map[string][]string `json:"headers"`
	Trailer map[string][]string `json:"trailer"`
	Body    int64               `json:"body"`
	Peer    string              `json:"peer"`
	Number  int64               `json:"connection"`
}

// The last requests, for who asks.
var seen struct {
	sync.Mutex
	all []told
}

type numbered struct{}

func serveHTTP(name, port string) {
	listener, err := net.Listen("tcp", ":"+port)
	check(err)
	listening = listener
	server := &http2.Server{MaxConcurrentStreams: 1000}
	for {
		connection, err := listener.Accept()
		check(err)
		n := connections.Add(1)
		ctx := context.WithValue(context.Background(), numbered{}, n)
		go server.ServeConn(connection, &http2.ServeConnOpts{
			Context: ctx,
			Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { answer(name, w, r) }),
		})
	}
}

func answer(name string, w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/early":
		http.Error(w, "too large", 413)
		return
	case r.URL.Path == "/die":
		// The system may end its connections before it stops taking new ones.
		listening.Close()
		os.Exit(1)
	case r.URL.Path == "/reset":
		panic(http.ErrAbortHandler)
	case r.URL.Path == "/half":
		w.Write([]byte("half"))
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	case r.URL.Path == "/silent", r.URL.Path == "/silent/"+name:
		<-r.Context().Done()
		cancelled.Add(1)
		return
	case r.URL.Path == "/open":
		w.Write([]byte("open\n"))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		cancelled.Add(1)
		return
	case r.URL.Path == "/late":
		// Keeps its caller's deadline, a moment before anybody else.
		var value int
		var unit string
		fmt.Sscanf(r.Header.Get("Grpc-Timeout"), "%d%s", &value, &unit)
		scale := map[string]time.Duration{"m": time.Millisecond, "u": time.Microsecond, "S": time.Second}[unit]
		time.Sleep(time.Duration(value)*scale - 50*time.Millisecond)
		w.Header().Set("Content-Type", "application/grpc")
		w.Header().Set("Grpc-Status", "4")
		return
	case r.URL.Path == "/slow":
		w.Write([]byte("open\n"))
		w.(http.Flusher).Flush()
		time.Sleep(time.Second)
		w.Write([]byte("the rest"))
		return
	case r.URL.Path == "/cancelled":
		fmt.Fprintln(w, cancelled.Load())
		return
	case r.URL.Path == "/seen":
		seen.Lock()
		defer seen.Unlock()
		json.NewEncoder(w).Encode(seen.all)
		return
	case strings.HasPrefix(r.URL.Path, "/flaky/") || strings.HasPrefix(r.URL.Path, "/flaky-grpc/"):
		// KIND/STATUS/NAME: fails the first time that the name comes, with all of its body.
		size, _ := io.Copy(io.Discard, r.Body)
		parts := strings.Split(r.URL.Path, "/")
		_, again := tried.LoadOrStore(parts[3], true)
		status := number(parts[2])
		if parts[1] == "flaky-grpc" {
			w.Header().Set("Content-Type", "application/grpc")
			w.Header().Set("Grpc-Status", fmt.Sprint(map[bool]int{true: 0, false: status}[again]))
			return
		}
		if !again {
			http.Error(w, "not yet", status)
			return
		}
		json.NewEncoder(w).Encode(told{Name: name, Body: size})
		return
	case r.URL.Path == "/hints":
		w.Header().Set("Link", "</a>")
		w.WriteHeader(103)
	case strings.HasPrefix(r.URL.Path, "/hints/"):
		for range number(strings.Split(r.URL.Path, "/")[2]) {
			w.WriteHeader(103)
		}
	case strings.HasPrefix(r.URL.Path, "/bytes/"):
		size := number(strings.Split(r.URL.Path, "/")[2])
		block := bytes.Repeat([]byte("0123456789abcdef"), 4096)
		for size > 0 {
			n := min(size, len(block))
			if _, err := w.Write(block[:n]); err != nil {
				return
			}
			size -= n
		}
		return
	case r.URL.Path == "/echo":
		w.WriteHeader(200)
		w.(http.Flusher).Flush()
		buffer := make([]byte, 32768)
		for {
			n, err := r.Body.Read(buffer)
			w.Write(buffer[:n])
			w.(http.Flusher).Flush()
			if err != nil {
				return
			}
		}
	}
	size, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		cancelled.Add(1)
		return
	}
	w.Header().Set("Trailer", "X-End")
	n, _ := r.Context().Value(numbered{}).(int64)
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	asked := told{
		Name: name, Proto: r.Proto, Method: r.Method, Host: r.Host, Path: r.URL.RequestURI(),
		Headers: r.Header, Trailer: r.Trailer, Body: size, Peer: host, Number: n,
	}
	seen.Lock()
	seen.all = append(seen.all, asked)
	seen.all = seen.all[max(0, len(seen.all)-10000):]
	seen.Unlock()
	json.NewEncoder(w).Encode(asked)
	w.Header().Set("X-End", "yes")
}

// One connection for all that it is asked for.
func client(to string) *http.Client {
	var once sync.Once
	dial := func(ctx context.Context, network, _ string, _ *tls.Config) (net.Conn, error) {
		var connection net.Conn
		err := errors.New("another connection")
		once.Do(func() { connection, err = net.Dial(network, to) })
		return connection, err
	}
	return &http.Client{Transport: &http2.Transport{AllowHTTP: true, DialTLSContext: dial, StrictMaxConcurrentStreams: true}}
}

func failure(err error) string {
	var reset http2.StreamError
	if errors.As(err, &reset) {
		return "reset " + reset.Code.String()
	}
	var away http2.GoAwayError
	if errors.As(err, &away) {
		return "goaway " + away.ErrCode.String()
	}
	return err.Error()
}

func get(c *http.Client, url string) map[string]any {
	return read(c.Get(url))
}

func read(response *http.Response, err error) map[string]any {
	if err != nil {
		return map[string]any{"error": failure(err)}
	}
	body, err := io.ReadAll(response.Body)
	result := map[string]any{"status": response.StatusCode, "body": string(body), "trailer": response.Trailer, "header": response.Header}
	if err != nil {
		result["error"] = failure(err)
	}
	var parsed told
	if json.Unmarshal(body, &parsed) == nil {
		result["told"] = parsed
	}
	return result
}

type pattern struct{ left int }

func (p *pattern) Read(buffer []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(p.left, len(buffer))
	p.left -= n
	return n, nil
}

func httpClient(verb string, args []string) bool {
	switch verb {
	case "get":
		// Each path in turn, on one connection.
		c := client(args[0])
		results := []any{}
		for _, path := range args[1:] {
			results = append(results, get(c, "http://"+args[0]+path))
		}
		tell(results)
	case "names":
		// How often each server answered, of so many requests, or calls, on one connection.
		c := client(args[0])
		ask := func() (*http.Response, error) { return c.Get("http://" + args[0] + "/x") }
		if len(args) > 2 {
			ask = func() (*http.Response, error) {
				return c.Post("http://"+args[0]+"/pkg.Echo/Echo", "application/grpc", strings.NewReader("x"))
			}
		}
		counts := map[string]int{}
		for range number(args[1]) {
			result := read(ask())
			if t, ok := result["told"].(told); ok {
				counts[t.Name]++
			} else {
				counts[fmt.Sprint(result["status"], result["error"])]++
			}
		}
		tell(counts)
	case "upload":
		c := client(args[0])
		body := struct{ io.Reader }{&pattern{number(args[2])}}
		request, err := http.NewRequest("POST", "http://"+args[0]+args[1], body)
		check(err)
		request.Trailer = http.Header{"X-Sum": {"7"}}
		response, err := c.Do(request)
		check(err)
		text, err := io.ReadAll(response.Body)
		check(err)
		var parsed told
		json.Unmarshal(text, &parsed)
		tell(map[string]any{"status": response.StatusCode, "told": parsed, "trailer": response.Trailer})
	case "refused-uploads":
		// Large uploads on one connection that are answered before they are whole: how often
		// each answer.
		c := client(args[0])
		counts := map[string]int{}
		for range number(args[1]) {
			body := struct{ io.Reader }{&pattern{10_000_000}}
			result := read(c.Post("http://"+args[0]+"/early", "text/plain", body))
			counts[fmt.Sprint(outcome(result), " ", result["body"])]++
		}
		tell(counts)
	case "hints":
		c := client(args[0])
		statuses := []int{}
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			statuses = append(statuses, code)
			return nil
		}}
		ctx := httptrace.WithClientTrace(context.Background(), trace)
		path := "/hints"
		if len(args) > 1 {
			path = args[1]
		}
		request, err := http.NewRequestWithContext(ctx, "GET", "http://"+args[0]+path, nil)
		check(err)
		response, err := c.Do(request)
		check(err)
		tell(append(statuses, response.StatusCode))
	case "stalled":
		// Downloads that nobody reads, and the time that others take meanwhile.
		c := client(args[0])
		for range number(args[1]) {
			response, err := c.Get("http://" + args[0] + "/bytes/100000000")
			check(err)
			defer response.Body.Close()
		}
		time.Sleep(300 * time.Millisecond)
		begin := time.Now()
		for range 100 {
			if result := get(c, "http://"+args[0]+"/x"); result["status"] != 200 {
				tell(result)
				return true
			}
		}
		tell(map[string]any{"ms": time.Since(begin).Milliseconds(), "ok": 100})
	case "many":
		// So many at once on one connection, all open at the same time.
		c := client(args[0])
		count := number(args[1])
		var open, done sync.WaitGroup
		var good atomic.Int64
		open.Add(count)
		done.Add(count)
		for range count {
			go func() {
				defer done.Done()
				reader, writer := io.Pipe()
				request, _ := http.NewRequest("POST", "http://"+args[0]+"/echo", reader)
				response, err := c.Do(request)
				open.Done()
				if err != nil {
					fmt.Println(err)
					return
				}
				open.Wait()
				writer.Write([]byte("ping"))
				got := make([]byte, 4)
				if _, err := io.ReadFull(response.Body, got); err != nil {
					return
				}
				writer.Close()
				rest, err := io.ReadAll(response.Body)
				if err == nil && len(rest) == 0 && string(got) == "ping" {
					good.Add(1)
				}
			}()
		}
		done.Wait()
		tell(good.Load())
	case "leave":
		// Requests whose client cancels them.
		c := client(args[0])
		for range number(args[2]) {
			ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
			request, _ := http.NewRequestWithContext(ctx, "GET", "http://"+args[0]+args[1], nil)
			response, err := c.Do(request)
			if err == nil {
				io.ReadAll(response.Body)
			}
			cancel()
		}
		for range 100 {
			result := get(c, "http://"+args[0]+"/cancelled")
			if result["body"] == args[2]+"\n" {
				tell("seen")
				return true
			}
			time.Sleep(20 * time.Millisecond)
		}
		tell(get(c, "http://"+args[0]+"/cancelled"))
	case "lines":
		lines(args[0], args[1:])
	case "spread":
		spread(args[0], number(args[1]))
	case "kill":
		kill(args[0], args[1])
	case "smuggle":
		smuggle(args[0])
	case "hold":
		// A request that is open, until its end.
		c := client(args[0])
		response, err := c.Get("http://" + args[0] + args[1])
		check(err)
		first := make([]byte, 5)
		_, err = io.ReadFull(response.Body, first)
		check(err)
		fmt.Println("open")
		_, err = io.ReadAll(response.Body)
		after := get(c, "http://"+args[0]+"/x")
		if err != nil {
			tell(map[string]any{"end": failure(err), "after": after["status"], "error": after["error"]})
		} else {
			tell(map[string]any{"end": "whole", "after": after["status"]})
		}
	default:
		return false
	}
	return true
}
