// Package grpchealth asks a server for its health by the gRPC health checking
// protocol, version 1. It is one unary call with a message of one field in each
// direction, so it needs no more than HTTP/2: the runner stays a small program.
package grpchealth

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

const (
	method = "/grpc.health.v1.Health/Check"
	// serving is HealthCheckResponse.ServingStatus SERVING.
	serving    = 1
	maxMessage = 64 << 10
)

// statuses by number, for messages.
var statuses = map[uint64]string{0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

// Check makes one call without TLS, as a kubelet's probe. It is nil when the
// service ("" is the server as a whole) is serving. It blocks until the answer
// or the end of ctx.
func Check(ctx context.Context, address, service, agent string) error {
	if len(service) > 4096 {
		return fmt.Errorf("service name of %d bytes", len(service))
	}
	var message []byte
	if service != "" {
		message = append(binary.AppendUvarint([]byte{1<<3 | 2}, uint64(len(service))), service...)
	}
	body := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))) // not compressed
	body = append(body, message...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+method, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/grpc")
	req.Header.Set("TE", "trailers")
	req.Header.Set("User-Agent", agent)
	transport := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("HTTP status %d", res.StatusCode)
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxMessage+1))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if len(answer) > maxMessage {
		return errors.New("the answer is too long")
	}
	code := res.Trailer.Get("Grpc-Status")
	if code == "" {
		code = res.Header.Get("Grpc-Status") // an answer without a message
	}
	if code != "0" {
		text := res.Trailer.Get("Grpc-Message") + res.Header.Get("Grpc-Message")
		if code == "12" {
			text = "the server does not implement the gRPC health protocol (grpc.health.v1.Health)"
		}
		return fmt.Errorf("gRPC status %s: %.256q", strconv.Quote(code), text)
	}
	status, err := decode(answer)
	if err != nil {
		return err
	}
	if status != serving {
		return fmt.Errorf("service %.64q is %d (%s)", service, status, statuses[status])
	}
	return nil
}

// decode reads HealthCheckResponse.status from a framed message.
func decode(frame []byte) (uint64, error) {
	if len(frame) < 5 || frame[0] != 0 || int(binary.BigEndian.Uint32(frame[1:5])) != len(frame)-5 {
		return 0, errors.New("the answer is no gRPC message")
	}
	var status uint64
	for b := frame[5:]; len(b) > 0; {
		key, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, errors.New("the answer is no health message")
		}
		b = b[n:]
		value, n := binary.Uvarint(b)
		if n <= 0 {
			return 0, errors.New("the answer is no health message")
		}
		b = b[n:]
		switch key & 7 {
		case 0:
			if key>>3 == 1 {
				status = value
			}
		case 2:
			if value > uint64(len(b)) {
				return 0, errors.New("the answer is no health message")
			}
			b = b[value:]
		default:
			return 0, errors.New("the answer is no health message")
		}
	}
	return status, nil
}
