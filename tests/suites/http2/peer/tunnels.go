package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand"
	"net/http"
	"os"
	"strings"
	"syscall"
)

// As serve-http, and its settings offer extended CONNECT.
func serveTunnels(args []string) {
	check(os.Setenv("GODEBUG", "http2xconnect=1"))
	check(syscall.Exec("/proc/self/exe", append([]string{"peer", "serve-http"}, args...), os.Environ()))
}

func extended(ctx context.Context, c *http.Client, url string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, "CONNECT", url, body)
	check(err)
	request.Header.Set(":protocol", "websocket")
	request.Header.Set("Sec-WebSocket-Protocol", "chat")
	return c.Do(request)
}

// Extended CONNECT, one of each kind on one connection, and how an ordinary request fares
// behind them.
func tunnels(to string) {
	c := client(to)
	url := "http://" + to
	told := map[string]any{}
	text := func(name, path string) {
		response, err := extended(context.Background(), c, url+path, struct{ io.Reader }{bytes.NewReader([]byte("up"))})
		if err != nil {
			told[name] = failure(err)
			return
		}
		body, err := io.ReadAll(response.Body)
		told[name] = fmt.Sprint(response.StatusCode, " ", strings.TrimSpace(string(body)))
		if err != nil {
			told[name] = fmt.Sprint(told[name], " ", failure(err))
		}
	}
	told["echo"] = echoed(c, url)
	text("reset", "/half")
	text("denied", "/admin/ws")
	told["head"] = headOf(c, url)
	// Its client leaves.
	ctx, cancel := context.WithCancel(context.Background())
	reader, writer := io.Pipe()
	response, err := extended(ctx, c, url+"/open", reader)
	if err == nil && response.StatusCode == 200 {
		io.ReadFull(response.Body, make([]byte, 5))
	}
	cancel()
	writer.Close()
	told["after"] = get(c, url+"/x")["status"]
	tell(told)
}

// A word there and back, then much both ways at once, then an end of each way.
func echoed(c *http.Client, url string) string {
	reader, writer := io.Pipe()
	response, err := extended(context.Background(), c, url+"/echo", reader)
	if err != nil {
		return failure(err)
	}
	if response.StatusCode != 200 {
		text, _ := io.ReadAll(response.Body)
		return fmt.Sprint(response.StatusCode, " ", strings.TrimSpace(string(text)))
	}
	sent := make([]byte, 4<<20)
	rand.New(rand.NewSource(1)).Read(sent)
	writer.Write(sent[:5])
	first := make([]byte, 5)
	if _, err := io.ReadFull(response.Body, first); err != nil || !bytes.Equal(first, sent[:5]) {
		return fmt.Sprint("first word: ", err)
	}
	go func() {
		writer.Write(sent[5:])
		writer.Close()
	}()
	rest, err := io.ReadAll(response.Body)
	if err != nil || !bytes.Equal(rest, sent[5:]) {
		return fmt.Sprint(len(rest), " bytes: ", err)
	}
	return "whole"
}

// What the server sees of one.
func headOf(c *http.Client, url string) any {
	response, err := extended(context.Background(), c, url+"/chat?a=b", http.NoBody)
	if err != nil {
		return failure(err)
	}
	var seen told
	if json.NewDecoder(response.Body).Decode(&seen) != nil {
		return response.StatusCode
	}
	return []any{seen.Method, seen.Path, seen.Headers[":protocol"], seen.Headers["Sec-Websocket-Protocol"]}
}
