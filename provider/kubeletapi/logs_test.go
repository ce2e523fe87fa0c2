package kubeletapi_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
)

func TestMain(m *testing.M) {
	// A certificate source of apiserver that could not be read leaves the timer
	// of its queue behind; such a server is never served.
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("k8s.io/client-go/util/workqueue.(*delayingType[...]).waitingLoop"),
		// It waits a second for somebody to ask how the closing went.
		goleak.IgnoreTopFunction("github.com/moby/spdystream.(*Connection).shutdown"))
}

func deadline(t *testing.T) time.Time {
	t.Helper()
	return time.Now().Add(time.Hour)
}

// poll waits until ok, at most half a minute.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); <-ticker.C {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

var full = identity{user: "full"}

func TestLogOptions(t *testing.T) {
	var got kubeletapi.LogOptions
	f := serve(t, reader(func(_ context.Context, _ *corev1.Pod, _ string, o kubeletapi.LogOptions, _ io.Writer) error {
		got = o
		return nil
	}))
	client := f.client(full)
	show := func(n *int64) string {
		if n == nil {
			return "all"
		}
		return fmt.Sprint(*n)
	}
	tests := map[string]string{
		"":                                    "tail=all limit=all since=never false false false",
		"tailLines=0":                         "tail=0 limit=all since=never false false false",
		"tailLines=5&limitBytes=9":            "tail=5 limit=9 since=never false false false",
		"timestamps=true&follow=true":         "tail=all limit=all since=never true true false",
		"sinceTime=2026-01-02T03:04:05Z":      "tail=all limit=all since=2026-01-02T03:04:05Z false false false",
		"sinceTime=2026-01-02T03:04:05.25Z":   "tail=all limit=all since=2026-01-02T03:04:05.25Z false false false",
		"timestamps=false&follow=0&previous=": "tail=all limit=all since=never false false false",
	}
	for query, want := range tests {
		got = kubeletapi.LogOptions{}
		code, body := f.do(client, full, "GET", "/containerLogs/team/p/main?"+query)
		since := "never"
		if !got.SinceTime.IsZero() {
			since = got.SinceTime.UTC().Format(time.RFC3339Nano)
		}
		text := fmt.Sprintf("tail=%s limit=%s since=%s %v %v %v", show(got.Tail), show(got.LimitBytes), since, got.Timestamps, got.Follow, got.Previous)
		if code != 200 || (text != want && !strings.HasSuffix(query, "previous=")) {
			t.Errorf("%q: %d %s %s, want %s", query, code, text, body, want)
		}
	}
	code, _ := f.do(client, full, "GET", "/containerLogs/team/p/main?sinceSeconds=60")
	if ago := time.Since(got.SinceTime); code != 200 || ago < time.Minute || ago > 2*time.Minute {
		t.Errorf("sinceSeconds=60 is %s ago", ago)
	}
	if code, _ := f.do(client, full, "GET", "/containerLogs/team/p/restarted?previous=true"); code != 200 || !got.Previous {
		t.Errorf("previous gives %d", code)
	}
	for _, query := range []string{
		"tailLines=-1", "tailLines=x", "limitBytes=0", "sinceSeconds=0", "sinceTime=yesterday", "follow=maybe",
		"sinceSeconds=5&sinceTime=2026-01-02T03:04:05Z", "tailLines=99999999999999999999",
	} {
		if code, body := f.do(client, full, "GET", "/containerLogs/team/p/main?"+query); (code != 400 && code != 422) || body == "" {
			t.Errorf("%q gives %d %s", query, code, body)
		}
	}
}

func TestLogErrors(t *testing.T) {
	var fail error
	f := serve(t, reader(func(context.Context, *corev1.Pod, string, kubeletapi.LogOptions, io.Writer) error { return fail }))
	client := f.client(full)
	for _, tc := range []struct {
		path string
		fail error
		code int
		says string
	}{
		{"/containerLogs/team/none/main", nil, 404, `pod "none" does not exist`},
		{"/containerLogs/other/p/main", nil, 404, `does not exist`},
		{"/containerLogs/team/p/none", nil, 404, `container "none" not found in pod "p"`},
		{"/containerLogs/team/p/waits", nil, 400, `container "waits" in pod "p" is waiting to start: Queued`},
		{"/containerLogs/team/p/main?previous=true", nil, 400, `previous terminated container "main" in pod "p" not found`},
		{"/containerLogs/team/p/main", &kubeletapi.Error{Code: 404, Message: "no log"}, 404, "no log"},
		{"/containerLogs/team/p/main", errors.New("cluster unreachable"), 500, "cluster unreachable"},
		{"/containerLogs/team/p/main", nil, 200, ""},
	} {
		fail = tc.fail
		code, body := f.do(client, full, "GET", tc.path)
		if code != tc.code || !strings.Contains(body, tc.says) {
			t.Errorf("%s: %d %q, want %d %q", tc.path, code, body, tc.code, tc.says)
		}
	}
}

// follow starts a stream and gives its body.
func follow(t *testing.T, f *fixture, ctx context.Context) (*http.Response, *bufio.Reader) { //nolint:revive // a test helper
	t.Helper()
	client := f.client(full)
	client.Timeout = 0
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.url+"/containerLogs/team/p/main?follow=true", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp, bufio.NewReader(resp.Body)
}

// TestFollow holds that every line is seen at once, and that the reader is
// told when the client leaves.
func TestFollow(t *testing.T) {
	next, left := make(chan string), make(chan struct{})
	f := serve(t, reader(func(ctx context.Context, _ *corev1.Pod, _ string, _ kubeletapi.LogOptions, w io.Writer) error {
		defer close(left)
		for {
			select {
			case s := <-next:
				if _, err := io.WriteString(w, s); err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { next <- "first\n" }()
	resp, body := follow(t, f, ctx)
	defer resp.Body.Close()
	for i, want := range []string{"first\n", "second\n", "third\n"} {
		if i > 0 {
			next <- want
		}
		if got, err := body.ReadString('\n'); got != want {
			t.Fatalf("got %q, %v; want %q", got, err, want)
		}
	}
	cancel()
	select {
	case <-left:
	case <-time.After(10 * time.Second):
		t.Fatal("the log is still read although the client left")
	}
}

func TestFollowEndsWithTheServer(t *testing.T) {
	f := serve(t, reader(func(ctx context.Context, _ *corev1.Pod, _ string, _ kubeletapi.LogOptions, w io.Writer) error {
		if _, err := io.WriteString(w, "line\n"); err != nil {
			return err
		}
		<-ctx.Done()
		return ctx.Err()
	}))
	resp, body := follow(t, f, t.Context())
	defer resp.Body.Close()
	if _, err := body.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := f.shutdown(); err != nil {
		t.Errorf("stopping gives %v", err)
	}
	if _, err := io.ReadAll(body); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Logf("the stream ended with %v", err)
	}
}
