// A client of the rate-limit service by grpc-go: asks what it is told to, and prints what it saw.
//
// Standard input is a JSON object: the address, and calls by name. Each call has a method's path,
// a message in base64, and what else the fields of Call say. Standard output is a JSON object:
// for each name how many answers there were of each kind, "OK <message in base64>" or "CODE: text".
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/gzip"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const (
	connectTimeout = 10 * time.Second
	largestAnswer  = 1 << 20
)

// Call is what to ask, `Repeats` times at once on one connection.
type Call struct {
	Path      string
	Message   []byte
	Repeats   int
	TimeoutMs int
	// A field of the metadata, and one of bytes, of these sizes.
	TextBytes   int
	BinaryBytes int
	IsGzip      bool
	// Leave right after the call was sent.
	IsCancelled bool
}

// Plan is the standard input.
type Plan struct {
	Address string
	Calls   []struct {
		Name string
		Call
	}
}

// rawCodec sends and receives bytes as they are, as a message of protobuf.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(message any) ([]byte, error) { return *message.(*[]byte), nil }

func (rawCodec) Unmarshal(data []byte, message any) error {
	*message.(*[]byte) = append([]byte(nil), data...)
	return nil
}

var _ encoding.Codec = rawCodec{}

func main() {
	log.SetFlags(0)
	var plan Plan
	if err := json.NewDecoder(os.Stdin).Decode(&plan); err != nil {
		log.Fatalf("the plan cannot be read: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), connectTimeout)
	defer cancel()
	connection, err := grpc.DialContext(
		ctx,
		plan.Address,
		grpc.WithBlock(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(
			grpc.ForceCodec(rawCodec{}), grpc.MaxCallRecvMsgSize(largestAnswer),
		),
	)
	if err != nil {
		log.Fatalf("%s: no connection: %v", plan.Address, err)
	}
	defer connection.Close()
	seen := map[string]map[string]int{}
	for _, call := range plan.Calls {
		seen[call.Name] = askAll(connection, call.Call)
	}
	if err := json.NewEncoder(os.Stdout).Encode(seen); err != nil {
		log.Fatal(err)
	}
}

// askAll asks `call.Repeats` times at once, and counts the answers of each kind.
func askAll(connection *grpc.ClientConn, call Call) map[string]int {
	answers := make(chan string)
	var pending sync.WaitGroup
	for index := 0; index < call.Repeats; index++ {
		pending.Add(1)
		go func() {
			defer pending.Done()
			answers <- ask(connection, call)
		}()
	}
	go func() {
		pending.Wait()
		close(answers)
	}()
	counts := map[string]int{}
	for answer := range answers {
		counts[answer]++
	}
	return counts
}

func ask(connection *grpc.ClientConn, call Call) string {
	timeout := time.Duration(call.TimeoutMs) * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	if call.TextBytes > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-text", filled(call.TextBytes, 'v'))
	}
	if call.BinaryBytes > 0 {
		ctx = metadata.AppendToOutgoingContext(ctx, "x-bytes-bin", filled(call.BinaryBytes, 0xff))
	}
	var options []grpc.CallOption
	if call.IsGzip {
		options = append(options, grpc.UseCompressor(gzip.Name))
	}
	if call.IsCancelled {
		// A stream, so that its message is sent for sure before it is taken back.
		return askAndLeave(ctx, cancel, connection, call, options)
	}
	var answer []byte
	err := connection.Invoke(ctx, call.Path, &call.Message, &answer, options...)
	return told(answer, err)
}

func askAndLeave(
	ctx context.Context,
	cancel context.CancelFunc,
	connection *grpc.ClientConn,
	call Call,
	options []grpc.CallOption,
) string {
	var answer []byte
	stream, err := connection.NewStream(ctx, &grpc.StreamDesc{}, call.Path, options...)
	if err == nil {
		err = stream.SendMsg(&call.Message)
	}
	if err == nil {
		err = stream.CloseSend()
	}
	cancel()
	if err == nil {
		err = stream.RecvMsg(&answer)
	}
	return told(answer, err)
}

func told(answer []byte, err error) string {
	if err != nil {
		failed := status.Convert(err)
		return fmt.Sprintf("%s: %s", names[failed.Code()], failed.Message())
	}
	text, err := json.Marshal(answer)
	if err != nil {
		log.Fatal(err)
	}
	return "OK " + string(text[1:len(text)-1])
}

func filled(size int, with byte) string {
	text := make([]byte, size)
	for index := range text {
		text[index] = with
	}
	return string(text)
}

// The names that the other clients use too.
var names = map[codes.Code]string{
	codes.Canceled:          "CANCELLED",
	codes.Unknown:           "UNKNOWN",
	codes.InvalidArgument:   "INVALID_ARGUMENT",
	codes.DeadlineExceeded:  "DEADLINE_EXCEEDED",
	codes.NotFound:          "NOT_FOUND",
	codes.PermissionDenied:  "PERMISSION_DENIED",
	codes.ResourceExhausted: "RESOURCE_EXHAUSTED",
	codes.Unimplemented:     "UNIMPLEMENTED",
	codes.Internal:          "INTERNAL",
	codes.Unavailable:       "UNAVAILABLE",
}
