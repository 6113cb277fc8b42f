package main

import (
	"strings"
	"time"
)

// A request that could be two, or another one, to who writes it down as HTTP/1: its header
// lines in order, and how it goes on.
type odd struct {
	name  string
	lines []string
	// Behind the head, before its end; without it the head is all.
	body string
	// Behind that.
	trailers []string
}

const second = " HTTP/1.1\r\nHost: x\r\n\r\nGET /smuggled"

func oddOnes(to string) []odd {
	// Each line once, those of `other` instead, or behind, what is there.
	head := func(other ...string) []string {
		lines := []string{":method", "GET", ":scheme", "http", ":path", "/odd", ":authority", to}
		for i := 0; i < len(other); i += 2 {
			at := -1
			for j := 0; j < len(lines); j += 2 {
				if lines[j] == other[i] {
					at = j + 1
				}
			}
			if at < 0 {
				lines = append(lines, other[i], other[i+1])
			} else {
				lines[at] = other[i+1]
			}
		}
		return lines
	}
	post := func(other ...string) []string {
		return head(append([]string{":method", "POST"}, other...)...)
	}
	twice := func(name, value string) []string {
		lines := head()
		return append(append(append([]string{}, lines[:8]...), name, value), lines[8:]...)
	}
	all := []odd{
		{name: "pseudo behind a line", lines: []string{":method", "GET", ":scheme", "http", ":path", "/odd", "x-a", "b", ":authority", to}},
		{name: "path behind a line", lines: []string{":method", "GET", ":scheme", "http", ":authority", to, "x-a", "b", ":path", "/odd"}},
		{name: "no path", lines: []string{":method", "GET", ":scheme", "http", ":authority", to}},
		{name: "no method", lines: []string{":scheme", "http", ":path", "/odd", ":authority", to}},
		{name: "no scheme", lines: []string{":method", "GET", ":path", "/odd", ":authority", to}},
		{name: "an answer's", lines: twice(":status", "200")},
		{name: "unknown pseudo", lines: twice(":other", "x")},
		{name: "another host", lines: head("host", "admin.test")},
		{name: "two hosts", lines: append(head("host", to), "host", to)},
	}
	add := func(name string, lines []string) { all = append(all, odd{name: name, lines: lines}) }
	for _, name := range []string{":method", ":scheme", ":path", ":authority"} {
		value := map[string]string{":method": "GET", ":scheme": "http", ":path": "/smuggled", ":authority": "admin.test"}[name]
		add("two of "+name, twice(name, value))
	}
	for called, bytes := range map[string]string{"CR": "\r", "LF": "\n", "CR LF": "\r\n", "NUL": "\x00", "a request": second} {
		add(called+" in a value", head("x-a", "a"+bytes+"b"))
		add(called+" at the end of a value", head("x-a", "a"+bytes))
		add(called+" before a value", head("x-a", bytes+"a"))
		add(called+" in a name", head("x-a"+bytes+"b", "c"))
		add(called+" in :method", head(":method", "GET"+bytes))
		add(called+" in :scheme", head(":scheme", "http"+bytes))
		add(called+" in :path", head(":path", "/odd"+bytes))
		add(called+" in :authority", head(":authority", to+bytes))
		add(called+" in a cookie", head("cookie", "a=b"+bytes))
	}
	for called, name := range map[string]string{"colon": "x-a: b", "colon at the end": "x-a:", "blank": "x a", "tab": "x\ta", "upper case": "X-A", "nothing": "", "DEL": "x\x7f"} {
		add(called+" as a name", head(name, "c"))
	}
	for _, path := range []string{"", "odd", "*", "/odd HTTP/1.1", "/odd\t", "http://admin.test/odd", "//admin.test/../odd\x7f"} {
		add("path "+path, head(":path", path))
	}
	for _, authority := range []string{"a b", "x@" + to, "a/b", "a,b", to + " HTTP/1.1"} {
		add("authority "+authority, head(":authority", authority))
	}
	for _, line := range []string{"connection: close", "connection: x-a", "keep-alive: 5", "proxy-connection: close",
		"transfer-encoding: chunked", "transfer-encoding: identity", "upgrade: h2c", "http2-settings: AAMAAABk", "te: gzip"} {
		name, value, _ := strings.Cut(line, ": ")
		add(line, head(name, value))
		all = append(all, odd{name: line + ", a body", lines: post(name, value), body: "0\r\n\r\nGET /smuggled" + second})
	}
	for _, length := range []string{"+3", "3, 3", "3 ", "0x3", "", "-1", "18446744073709551619"} {
		all = append(all, odd{name: "length " + length, lines: post("content-length", length), body: "abc"})
	}
	all = append(all, odd{name: "two lengths", lines: append(post("content-length", "3"), "content-length", "4"), body: "abc"})
	// What is wrong comes behind a head that is clear: that may have gone on.
	late := func(name string, more []string, body string, trailers ...string) {
		lines := post(append(more, ":path", "/behind")...)
		all = append(all, odd{name: "late: " + name, lines: lines, body: body, trailers: trailers})
	}
	late("longer than its length", []string{"content-length", "3"}, "abcGET /smuggled"+second)
	late("shorter than its length", []string{"content-length", "300"}, "abc")
	late("a coding in the trailers", nil, "abc", "transfer-encoding", "chunked")
	late("CR LF in the trailers", nil, "abc", "x-a", "b\r\nx-c: d")
	// Odd, and no more than one request.
	for _, lines := range [][]string{{"x-a", "b: c"}, {"x-a", ""}, {"x-a", "a\tb\xff"}, {"x_a", "~!#$%&'*+-.^`|"}, {"te", "trailers"}} {
		add("clear: "+lines[0], head(append([]string{":path", "/clear"}, lines...)...))
	}
	// They stay behind: a server of Go resets what has one.
	for _, trailer := range []string{":path", "content-length", "host"} {
		lines := post(":path", "/clear")
		all = append(all, odd{name: "clear: a trailer " + trailer, lines: lines, body: "abc", trailers: []string{trailer, "3"}})
	}
	return all
}

// Each on a connection of its own: what becomes of it, in
// order.
func smuggle(to string) {
	type told struct {
		Name string `json:"name"`
		End  string `json:"end"`
	}
	cases := oddOnes(to)
	ends := make([]told, len(cases))
	for i, one := range cases {
		framer := dialFrames(to, 10*time.Second)
		fields(framer, 1, one.body == "", one.lines...)
		if one.body != "" {
			framer.WriteData(1, one.trailers == nil, []byte(one.body))
		}
		if one.trailers != nil {
			fields(framer, 1, true, one.trailers...)
		}
		status, _, cut := answered(framer, 1)
		if cut != "" {
			status = cut
		}
		ends[i] = told{one.name, status}
	}
	tell(ends)
}
