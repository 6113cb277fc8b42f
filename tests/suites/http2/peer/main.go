// HTTP/2 and gRPC peers for the suite `http2`: servers and clients of golang.org/x/net
// and grpc-go, without TLS.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	check(err)
	return n
}

func tell(value any) {
	check(json.NewEncoder(os.Stdout).Encode(value))
}

func main() {
	verb, args := os.Args[1], os.Args[2:]
	if !strings.HasPrefix(verb, "serve") {
		// A client that waits without end would hold up the suite.
		time.AfterFunc(3*time.Minute, func() {
			fmt.Fprintln(os.Stderr, verb, "takes over 3 minutes")
			os.Exit(3)
		})
	}
	switch verb {
	case "serve-http":
		serveHTTP(args[0], args[1])
	case "serve-tunnels":
		serveTunnels(args)
	case "tunnels":
		tunnels(args[0])
	case "serve-grpc":
		serveGRPC(args[0], args[1], args[2:])
	case "serve-unwilling":
		serveUnwilling(args[0], args[1])
	case "once":
		once(args[0], args[1:])
	case "flood":
		flood(args[0], args[1], number(args[2]))
	case "behind":
		behind(args[0])
	case "heads":
		heads(args[0], args[1:])
	case "both":
		duplex(args[0], args[1], number(args[2]))
	case "crowd":
		crowd(args[0], args[1], number(args[2]), number(args[3]))
	case "hoard":
		hoard(args[0], args[1], number(args[2]), number(args[3]), number(args[4]))
	case "sip":
		sip(args[0], args[1], number(args[2]))
	case "serve-stalls":
		serveStalls(args[1], args[2:])
	case "serve-timed":
		serveTimed(args[0], args[1])
	case "timed":
		timedCalls(args[0], args[1:])
	case "ends":
		ends(args[0], args[1], number(args[2]))
	case "beside":
		beside(args[0], args[1])
	default:
		if !httpClient(verb, args) && !grpcClient(verb, args) {
			fmt.Fprintln(os.Stderr, "no verb", verb)
			os.Exit(2)
		}
	}
}
