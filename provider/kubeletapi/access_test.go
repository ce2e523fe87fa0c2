package kubeletapi_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
)

func text(s string) kubeletapi.Logs {
	return reader(func(_ context.Context, _ *corev1.Pod, _ string, _ kubeletapi.LogOptions, w io.Writer) error {
		_, err := io.WriteString(w, s)
		return err
	})
}

// TestMatrix asks every endpoint as every identity.
func TestMatrix(t *testing.T) {
	f := serve(t, text("log line\n"))
	identities := []struct {
		name string
		identity
		refused int // code for everything; 0 when the rights decide
		may     string
	}{
		{"nobody", identity{}, 401, ""},
		{"a certificate of another authority", identity{user: "full", wrongCA: true}, 401, ""},
		{"an expired certificate", identity{user: "full", expired: true}, 401, ""},
		{"an unknown token", identity{token: "guess"}, 401, ""},
		{"a user without rights", identity{user: "norights"}, 403, ""},
		{"rights on another node", identity{user: "other"}, 403, ""},
		{"rights on the pod's node", identity{user: "mine"}, 0, "pod"},
		{"a reader", identity{user: "reader"}, 0, "narrow"},
		{"a reader by token", identity{token: "token-reader"}, 0, "narrow"},
		{"everything", identity{user: "full"}, 0, "all"},
		{"everything by token", identity{token: "token-full"}, 0, "all"},
	}
	endpoints := []struct {
		method, path string
		kind         string // "narrow": a right of its own; "pod": proxy on the pod's node; "all": proxy on all nodes
		code         int
		body         string
	}{
		{"GET", "/healthz", "narrow", 200, "ok"},
		{"GET", "/pods", "narrow", 200, `"name":"p"`},
		{"GET", "/runningpods/", "narrow", 200, `"name":"p"`},
		{"GET", "/stats/summary", "narrow", 200, `"podRef"`},
		{"GET", "/metrics", "narrow", 200, "measured 1"},
		{"GET", "/metrics/cadvisor", "narrow", 200, ""},
		{"GET", "/metrics/probes", "narrow", 200, ""},
		{"GET", "/metrics/resource", "narrow", 200, "container_cpu_usage_seconds_total{"},
		{"GET", "/metrics/resource/c-gpu", "narrow", 200, "node_cpu_usage_seconds_total "},
		{"GET", "/containerLogs/team/p/main", "pod", 200, "log line"},
		{"POST", "/exec/team/p/main?command=id&output=1", "pod", 400, "pgrade"},
		{"GET", "/exec/team/p/u0/main?command=id&output=1", "pod", 400, "pgrade"},
		{"POST", "/attach/team/p/main?output=1", "pod", 400, "pgrade"},
		{"POST", "/portForward/team/p", "pod", 400, "pgrade"},
		{"POST", "/run/team/p/main", "pod", 501, "run"},
		{"GET", "/containerLogs/team/none/main", "all", 404, "does not exist"},
		{"GET", "/configz", "all", 404, ""},
		{"GET", "/logs/", "all", 404, ""},
		{"GET", "/debug/pprof/", "all", 404, ""},
		{"GET", "/", "all", 404, ""},
		{"DELETE", "/pods", "all", 405, ""},
	}
	cases := 0
	for _, id := range identities {
		client := f.client(id.identity)
		for _, e := range endpoints {
			cases++
			want := id.refused
			if want == 0 {
				want = 403
				if id.may == "all" || id.may == e.kind {
					want = e.code
				}
			}
			if id.may == "narrow" && e.method == "DELETE" {
				want = 405 // the fake reviewer knows no verbs
			}
			code, body := f.do(client, id.identity, e.method, e.path)
			if code != want {
				t.Errorf("%s: %s %s gives %d, want %d: %s", id.name, e.method, e.path, code, want, body)
			}
			if code == 200 && !strings.Contains(body, e.body) {
				t.Errorf("%s: %s %s says %q", id.name, e.method, e.path, body)
			}
			if (code == 401 || code == 403) && strings.Contains(body, "log line") {
				t.Errorf("%s: %s %s leaks: %q", id.name, e.method, e.path, body)
			}
		}
	}
	t.Logf("%d endpoints x %d identities: %d cases", len(endpoints), len(identities), cases)
	f.review.mu.Lock()
	defer f.review.mu.Unlock()
	for _, a := range f.review.seen {
		if a.Group != "" || a.Version != "v1" || a.Namespace != "" || (a.Name != "" && a.Name != "c-gpu") {
			t.Errorf("reviewed %+v", a)
		}
	}
}

// A path that is decoded in two ways must not be reviewed as one pod and served
// as another.
func TestOddPaths(t *testing.T) {
	f := serve(t, text("log line\n"))
	mine := identity{user: "mine"}
	client := f.client(mine)
	for _, path := range []string{
		"/containerLogs/team%2Fp/main/x", "/containerLogs/team/p%2Fmain/x", "//containerLogs/team/p/main", "/containerLogs/team/p/../../../pods",
		"/exec/team/p/../../../pods", "/containerLogs/team/p/%2e%2e/%2e%2e/pods", "/PODS", "/pods%2F", "/containerLogs//p/main",
	} {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
		if code, body := f.do(client, mine, "GET", path); code == 200 {
			t.Errorf("%s gives 200: %s", path, body)
		}
	}
}

func TestReviewsAreDown(t *testing.T) {
	f := serve(t, text("log line\n"))
	f.review.down = true
	if code, _ := f.do(f.client(identity{}), identity{token: "token-full"}, "GET", "/pods"); code != 401 {
		t.Errorf("a token nobody could review gives %d", code)
	}
	full := identity{user: "full"}
	if code, _ := f.do(f.client(full), full, "GET", "/pods"); code != 500 && code != 403 {
		t.Errorf("a right nobody could review gives %d", code)
	}
}

func TestOldTLSIsRefused(t *testing.T) {
	f := serve(t, text(""))
	addr := strings.TrimPrefix(f.url, "https://")
	if c, err := tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil { //nolint:gosec // the test is about the version
		_ = c.Close()
		t.Error("TLS 1.2 was accepted")
	}
	// Plain HTTP gets nothing but an error.
	resp, err := http.Get("http://" + addr + "/healthz") //nolint:noctx // loopback
	if err == nil {
		defer resp.Body.Close()
		if resp.StatusCode == http.StatusOK {
			t.Error("plain HTTP was served")
		}
	}
}

func TestNewRefuses(t *testing.T) {
	f := serve(t, text(""))
	empty := t.TempDir() + "/empty"
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*kubeletapi.Config){
		"no certificate":      func(c *kubeletapi.Config) { c.CertFile = "" },
		"no key":              func(c *kubeletapi.Config) { c.KeyFile = "" },
		"no client":           func(c *kubeletapi.Config) { c.Client = nil },
		"missing certificate": func(c *kubeletapi.Config) { c.CertFile += ".none" },
		"missing authority":   func(c *kubeletapi.Config) { c.ClientCAFile += ".none" },
		"empty authority":     func(c *kubeletapi.Config) { c.ClientCAFile = empty },
		"a key that is not":   func(c *kubeletapi.Config) { c.KeyFile = c.CertFile },
	} {
		c := f.config
		change(&c)
		if _, err := kubeletapi.New(c, kubeletapi.Sources{Pods: pods(), Logs: text(""), Streams: &echo{}, Usage: used{}}); err == nil {
			t.Errorf("%s: a server was made", name)
		}
	}
}

// The certificate is read again when its file changes.
func TestCertificateRotation(t *testing.T) {
	f := serve(t, text(""))
	serial := func() string {
		d := tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}, NetDialer: &net.Dialer{}} //nolint:gosec // only the serial is read
		c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(f.url, "https://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		return c.(*tls.Conn).ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	certPEM, keyPEM := f.ca.issue(t, "", deadline(t))
	if err := os.WriteFile(f.config.KeyFile, keyPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.config.CertFile, certPEM, 0o600); err != nil {
		t.Fatal(err)
	}
	poll(t, "the new certificate", func() bool { return serial() != before })
}
