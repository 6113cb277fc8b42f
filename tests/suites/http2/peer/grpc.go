package main

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// Messages are bytes.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return *v.(*[]byte), nil }
func (raw) Unmarshal(d []byte, v any) error { *v.(*[]byte) = append([]byte{}, d...); return nil }
func (raw) Name() string                    { return "raw" }

var left atomic.Int64

func serveGRPC(name, port string, flags []string) {
	listener, err := net.Listen("tcp", ":"+port)
	check(err)
	options := []grpc.ServerOption{grpc.ForceServerCodec(raw{}), grpc.UnknownServiceHandler(
		func(_ any, stream grpc.ServerStream) error { return handle(name, stream) })}
	if len(flags) > 0 {
		options = append(options, grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge:      time.Duration(number(flags[0])) * time.Millisecond,
			MaxConnectionAgeGrace: 10 * time.Second,
		}))
	}
	check(grpc.NewServer(options...).Serve(counting{listener}))
}

// Connections that it took.
var taken atomic.Int64

type counting struct{ net.Listener }

func (c counting) Accept() (net.Conn, error) {
	connection, err := c.Listener.Accept()
	if err == nil {
		taken.Add(1)
	}
	return connection, err
}

func handle(name string, stream grpc.ServerStream) error {
	method, _ := grpc.MethodFromServerStream(stream)
	var message []byte
	switch method {
	case "/test.Echo/Unary":
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		stream.SetTrailer(metadata.Pairs("x-name", name))
		return stream.SendMsg(&message)
	case "/test.Echo/Stream":
		for {
			if err := stream.RecvMsg(&message); err == io.EOF {
				return nil
			} else if err != nil {
				left.Add(1)
				return err
			}
			if err := stream.SendMsg(&message); err != nil {
				return err
			}
		}
	case "/test.Echo/Early":
		// All of the answer, and the request is not read to its end.
		message = []byte("enough")
		return stream.SendMsg(&message)
	case "/test.Echo/Fail":
		return status.Error(codes.FailedPrecondition, "not now: \u00e9%")
	case "/test.Echo/Late":
		<-stream.Context().Done()
		left.Add(1)
		return stream.Context().Err()
	case "/test.Echo/Silent_" + name:
		<-stream.Context().Done()
		left.Add(1)
		return stream.Context().Err()
	case "/test.Echo/Silent_b", "/test.Echo/Silent_c":
		if err := stream.RecvMsg(&message); err != nil {
			return err
		}
		return stream.SendMsg(&message)
	case "/test.Echo/Left":
		message = []byte(fmt.Sprint(left.Load()))
		return stream.SendMsg(&message)
	case "/test.Echo/Taken":
		message = []byte(fmt.Sprint(taken.Load()))
		return stream.SendMsg(&message)
	}
	return status.Error(codes.Unimplemented, method)
}

func connect(to string) *grpc.ClientConn {
	connection, err := grpc.NewClient("passthrough:///"+to, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(raw{}), grpc.MaxCallRecvMsgSize(math.MaxInt32)))
	check(err)
	return connection
}

func call(ctx context.Context, c *grpc.ClientConn, method string, size int, options ...grpc.CallOption) ([]byte, error) {
	request, reply := make([]byte, size), []byte{}
	err := c.Invoke(ctx, method, &request, &reply, options...)
	return reply, err
}

func result(err error) []any {
	s := status.Convert(err)
	return []any{s.Code().String(), s.Message()}
}

var both = &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}

// A stream of messages that are answered one by one, until then; how it ended.
func long(c *grpc.ClientConn, ends time.Time) string {
	stream, err := c.NewStream(context.Background(), both, "/test.Echo/Stream")
	if err != nil {
		return err.Error()
	}
	message, reply := make([]byte, 100), []byte{}
	for time.Now().Before(ends) {
		if err := stream.SendMsg(&message); err != nil {
			return err.Error()
		}
		if err := stream.RecvMsg(&reply); err != nil {
			return err.Error()
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := stream.CloseSend(); err != nil {
		return err.Error()
	}
	if err := stream.RecvMsg(&reply); err != io.EOF {
		return fmt.Sprint(err)
	}
	return "whole"
}

func grpcClient(verb string, args []string) bool {
	c := connect(args[0])
	background := context.Background()
	switch verb {
	case "unary":
		trailer := metadata.MD{}
		reply, err := call(background, c, "/test.Echo/Unary", number(args[1]), grpc.Trailer(&trailer))
		tell(append(result(err), len(reply), trailer.Get("x-name")))
	case "call":
		_, err := call(background, c, args[1], 3)
		tell(result(err))
	case "deadline":
		ctx, cancel := context.WithTimeout(background, 200*time.Millisecond)
		defer cancel()
		_, err := call(ctx, c, "/test.Echo/Late", 3)
		for range 100 {
			if reply, _ := call(background, c, "/test.Echo/Left", 3); string(reply) == args[1] {
				tell(append(result(err), "seen"))
				return true
			}
			time.Sleep(20 * time.Millisecond)
		}
		tell(append(result(err), "not seen"))
	case "stream":
		stream, err := c.NewStream(background, both, "/test.Echo/Stream")
		check(err)
		for i := range number(args[1]) {
			message, reply := []byte(fmt.Sprint(i)), []byte{}
			check(stream.SendMsg(&message))
			check(stream.RecvMsg(&reply))
			if string(reply) != string(message) {
				tell("another message")
				return true
			}
		}
		check(stream.CloseSend())
		var reply []byte
		err = stream.RecvMsg(&reply)
		tell(err == io.EOF)
	case "early":
		// Calls that are answered before they are whole.
		counts := map[string]int{}
		for range number(args[1]) {
			stream, err := c.NewStream(background, both, "/test.Echo/Early")
			check(err)
			message, reply := make([]byte, 1000), []byte{}
			for range 3 {
				if stream.SendMsg(&message) != nil {
					break
				}
			}
			err = stream.RecvMsg(&reply)
			if err == nil {
				err = stream.RecvMsg(&reply)
			}
			if err == io.EOF && string(reply) == "enough" {
				counts["whole"]++
			} else {
				counts[fmt.Sprint(err)]++
			}
		}
		tell(counts)
	case "load":
		tell(load(c, number(args[1]), number(args[2]), number(args[3])))
	default:
		return false
	}
	return true
}

// So many unary calls a second for so many seconds, and long streams beside them: how each
// ended, and connections that the server took. A call that is late is made all the same: there
// are always as many, on a slow machine over a longer time.
func load(c *grpc.ClientConn, rate, seconds, streams int) map[string]int {
	const callers = 20
	var all sync.WaitGroup
	var lock sync.Mutex
	counts := map[string]int{}
	count := func(what string) {
		lock.Lock()
		defer lock.Unlock()
		counts[what]++
	}
	began := time.Now()
	ends := began.Add(time.Duration(seconds) * time.Second)
	for i := range streams {
		all.Go(func() {
			// They begin on several connections of the server.
			time.Sleep(time.Duration(i) * ends.Sub(began) / time.Duration(2*streams))
			count("stream " + long(c, ends))
		})
	}
	for i := range callers {
		all.Go(func() {
			for n := i; n < rate*seconds; n += callers {
				time.Sleep(time.Until(began.Add(time.Duration(n) * time.Second / time.Duration(rate))))
				_, err := call(context.Background(), c, "/test.Echo/Unary", 100)
				count(status.Code(err).String())
				if err != nil {
					count(err.Error())
				}
			}
		})
	}
	all.Wait()
	reply, err := call(context.Background(), c, "/test.Echo/Taken", 0)
	check(err)
	counts["connections"] = number(string(reply))
	return counts
}
