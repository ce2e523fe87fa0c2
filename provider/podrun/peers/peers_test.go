package peers

import (
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func gangDir(t *testing.T, size int) *os.Root {
	t.Helper()
	root, err := os.OpenRoot(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	for r := range size {
		if err := root.MkdirAll(fmt.Sprintf("pods/%d", r), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestGather(t *testing.T) {
	root := gangDir(t, 4)
	s := Set{Restart: 1}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(Announce(root, manifest.Address{Rank: 0, IP: "127.0.0.2", Restart: 1}))
	must(Announce(root, manifest.Address{Rank: 1, IP: "127.0.0.3", Restart: 0})) // of the run before
	must(Announce(root, manifest.Address{Rank: 2, IP: "not an address\n127.0.0.1 evil", Restart: 1}))
	must(atomicfile.WriteJSON(root, "pods/3/status.json", manifest.Status{Restart: 1, Phase: manifest.PhaseFailed}))
	if got := s.Gather(root, 4); fmt.Sprint(got) != "[1 2]" {
		t.Errorf("missing = %v, want [1 2]", got)
	}
	must(Announce(root, manifest.Address{Rank: 1, IP: "::1", Restart: 1}))
	must(Announce(root, manifest.Address{Rank: 2, IP: "127.0.0.4", Restart: 1}))
	if got := s.Gather(root, 4); len(got) != 0 {
		t.Errorf("missing = %v, want none", got)
	}
	must(s.Publish(root))
	if _, ok := Published(root, 2); ok {
		t.Error("a set of another restart was taken")
	}
	back, ok := Published(root, 1)
	if !ok || len(back.Known) != 3 || fmt.Sprint(back.Ended) != "[3]" {
		t.Errorf("Published = %+v, %v", back, ok)
	}
}

func TestEtcHosts(t *testing.T) {
	members := []manifest.Member{{Rank: 0, Hostnames: []string{"m-0", "m-0.m"}}, {Rank: 1, Hostnames: []string{"m-1", "x\n127.0.0.1 evil"}}, {Rank: 2, Hostnames: []string{"gone"}}}
	s := Set{Known: map[int]manifest.Address{0: {IP: "127.0.0.2"}, 1: {IP: "127.0.0.3"}}}
	got, err := EtcHosts(members, s, []corev1.HostAlias{{IP: "127.0.0.9", Hostnames: []string{"alias"}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"127.0.0.2\tm-0 m-0.m\n", "127.0.0.3\tm-1\n", "127.0.0.9\talias\n"} {
		if !strings.Contains(string(got), want) {
			t.Errorf("%q is missing from\n%s", want, got)
		}
	}
	if strings.Contains(string(got), "evil") {
		t.Errorf("a name broke out of its line:\n%s", got)
	}
	if strings.Contains(string(got), "gone") {
		t.Errorf("a member without an address is named:\n%s", got)
	}
}

func TestRewrite(t *testing.T) {
	names := map[string]string{"a": "127.0.0.2", "b.svc": "::1"}
	for in, want := range map[string]string{
		"":               "",
		"a":              "127.0.0.2",
		"a,b.svc,c":      "127.0.0.2,::1,c",
		"a:80,b.svc:90":  "127.0.0.2:80,[::1]:90",
		"aa,a ":          "aa,a ", //nolint:gocritic // the space is the case
		"tcp://a:80/x,a": "tcp://a:80/x,127.0.0.2",
	} {
		if got := Rewrite(in, names); got != want {
			t.Errorf("Rewrite(%q) = %q, want %q", in, got, want)
		}
	}
	for name, want := range map[string]bool{"VC_WORKER_HOSTS": true, "MASTER_ADDR": true, "MPI_HOST": true, "VC_WORKER_NUM": false, "HOSTS": false, "MS_SCHED_HOST": true} {
		if Rewritten(name, false) != want {
			t.Errorf("Rewritten(%q, false) = %v", name, !want)
		}
		if always := name == "MS_SCHED_HOST"; Rewritten(name, true) != always {
			t.Errorf("Rewritten(%q, true) = %v", name, !always)
		}
	}
}
