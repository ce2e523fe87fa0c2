package main

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// TestOverNetwork is all of the tests of streams with a runner that listens on
// the network, as on PBS.
func TestOverNetwork(t *testing.T) {
	for name, run := range map[string]func(*testing.T){
		"exec": TestExec, "refused": TestExecRefused, "much": TestExecMuch, "terminal": TestExecTerminal,
		"leaves nothing": TestExecLeavesNothing, "ends with container": TestExecEndsWithContainer, "attach": TestAttach,
		"attach terminal": TestAttachTerminal, "forward": TestForward, "many at once": TestExecManyAtOnce,
	} {
		t.Run(name, run)
	}
}

// listening reads what the runner of a rank has left word of.
func (b *bench) listening(rank int) manifest.Listening {
	b.t.Helper()
	name := filepath.Join(b.dir(), "pods", strconv.Itoa(rank), manifest.ListeningFile)
	var at manifest.Listening
	until(b.t, "the runner says where it listens", func() bool {
		data, err := os.ReadFile(name)
		return err == nil && json.Unmarshal(data, &at) == nil
	})
	st, err := os.Stat(name)
	if err != nil {
		b.t.Fatal(err)
	}
	if st.Mode() != 0o600 {
		b.t.Errorf("%s has mode %v, want 0600", name, st.Mode())
	}
	return at
}

// Nobody without the secret gets a byte, those who only wait keep nobody out,
// and with the pod all of it ends.
func TestListening(t *testing.T) {
	b := newBench(t)
	b.far = true
	b.stage(one(sh("main", "trap 'exit 0' TERM; sleep 1000 & wait")))
	pod := b.startPod()
	until(t, "the container runs", func() bool { return b.runningNow("main") })
	at := b.listening(0)
	if at.Problem != "" || len(at.Secret) != stream.SecretSize {
		t.Fatalf("listening %q, a secret of %d bytes, problem %q", at.Address, len(at.Secret), at.Problem)
	}
	if s, _ := b.status(0); !strings.HasPrefix(at.Address, net.JoinHostPort(s.HostIP, "")) {
		t.Errorf("it listens on %s, the pod's address is %s", at.Address, s.HostIP)
	}
	wrong, err := stream.NewSecret()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Reach(t.Context(), at.Address, wrong); err == nil || !strings.Contains(err.Error(), "not the pod's runner") {
		t.Errorf("with another secret: %v", err)
	}
	for name, config := range strangers(t) {
		c, err := net.Dial("tcp", at.Address)
		if err != nil {
			t.Fatal(err)
		}
		if config != nil {
			c = tls.Client(c, config)
		} else if _, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		got, err := io.ReadAll(c)
		if t, ok := c.(*tls.Conn); ok && err == nil {
			err = t.Handshake() // EOF is no proof that it was refused
		}
		if strings.Contains(string(got), "isthmus") || config != nil && err == nil {
			t.Errorf("%s: got %q, %v", name, got, err)
		}
		_ = c.Close()
	}
	for range 200 {
		c, err := net.Dial("tcp", at.Address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	c, _ := b.dial()
	if out, _, exit := do(t, c, script("echo in"), nil); out != "in\n" || exit.Code != 0 {
		t.Errorf("beside idle ones: %q, %+v", out, exit)
	}
	if code, err := os.ReadFile(filepath.Join(b.dir(), "pods/0/status.json")); err != nil || strings.Contains(string(code), "secret") {
		t.Errorf("the status, %v: %s", err, code)
	}
	_ = c.Close()
	b.stop(manifest.Stop{GraceSeconds: 5, Reason: manifest.ReasonDeleted})
	pod.wait()
	if _, err := os.Stat(filepath.Join(b.dir(), "pods/0", manifest.ListeningFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the secret is still there: %v", err)
	}
	if c, err := net.Dial("tcp", at.Address); err == nil {
		_ = c.Close()
		t.Error("somebody still listens")
	}
	out, err := b.command("stream", "--rank=0", "--network", b.dir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "the runner of rank 0 does not listen on the network") {
		t.Errorf("after the end: %v: %s", err, out)
	}
}

// strangers are those who may try: without TLS (nil), without a certificate,
// with one of their own, and with an older TLS.
func strangers(t *testing.T) map[string]*tls.Config {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"provider.isthmus.invalid"}, NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, KeyUsage: x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, key)
	if err != nil {
		t.Fatal(err)
	}
	anybody := func(c *tls.Config) *tls.Config {
		c.InsecureSkipVerify = true //nolint:gosec // a stranger does not care whom he speaks to
		return c
	}
	return map[string]*tls.Config{
		"no TLS":          nil,
		"no certificate":  anybody(&tls.Config{MinVersion: tls.VersionTLS13}),
		"own certificate": anybody(&tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}),
		"TLS 1.2":         anybody(&tls.Config{MinVersion: tls.VersionTLS12, MaxVersion: tls.VersionTLS12}),
	}
}

// A runner that cannot listen says why, and runs the pod all the same.
func TestListeningProblem(t *testing.T) {
	b := newBench(t)
	b.far = true
	b.stage(one(sh("main", "until test -e $HOME/go; do sleep 0.05; done")))
	// An address that this host does not have, as the launcher of a site with
	// address translation might find it.
	if err := os.WriteFile(filepath.Join(b.dir(), "hosts.json"), []byte(`{"restart":0,"addresses":{"h":"192.0.2.7"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(b.dir(), "hosts.json"), b.who.uid, b.who.gid); err != nil {
		t.Fatal(err)
	}
	pod := b.startPod()
	until(t, "the container runs", func() bool { return b.runningNow("main") })
	b.listening(0)
	out, err := b.command("stream", "--rank=0", "--network", b.dir()).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "192.0.2.7") || !strings.Contains(string(out), "cannot be reached over the network: listen on this host's address") {
		t.Errorf("%v: %s", err, out)
	}
	if err := os.WriteFile(b.file("go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	pod.wait()
	b.final(0, manifest.PhaseSucceeded)
}

// networkStreams: from the login host, over the network, to pods on hosts with
// networks of their own.
func networkStreams(t *testing.T, cluster *slurm.Cluster) {
	b := &slurmBench{bench: newQuietBench(t), cluster: cluster}
	b.far = true
	m := one(corev1.Container{Name: "main", Command: []string{"/bin/sh", "-c", fmt.Sprintf("until test -e %s/go; do sleep 0.1; done", b.dir())}})
	b.stage(m, m, m, m)
	b.submit(manifest.Component{Tasks: 4, CPUs: 2})
	addresses := map[string]bool{}
	for rank := range 4 {
		until(t, "the container runs", func() bool {
			s, ok := b.status(rank)
			return ok && len(s.Containers) == 1 && s.Containers[0].State.Running != nil
		})
		host, _, err := net.SplitHostPort(b.listening(rank).Address)
		if err != nil {
			t.Fatal(err)
		}
		addresses[host] = true
		c, _ := b.dialBy(b.bench.command("stream", "--rank="+strconv.Itoa(rank), "--network", b.dir()))
		out, _, _ := do(t, c, script("cat; echo $SLURM_PROCID; ip -o -4 addr"), strings.NewReader("over the network to "))
		if !strings.HasPrefix(out, fmt.Sprintf("over the network to %d\n", rank)) || !strings.Contains(out, host) {
			t.Errorf("rank %d at %s says %q", rank, host, out)
		}
	}
	if len(addresses) != 4 {
		t.Errorf("the runners listen on %v, want four addresses", addresses)
	}
	if err := os.WriteFile(filepath.Join(b.dir(), "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if e := b.end(0); e.ExitCode != 0 {
		t.Errorf("end %+v", e)
	}
}
