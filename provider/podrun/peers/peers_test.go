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

// The document of TensorFlow has hosts with ports among other strings: only whole ones
// of the gang become addresses, and every other byte stays.
func TestVariable(t *testing.T) {
	names := map[string]string{"j-ps-0.j": "10.0.0.1", "j-worker-0.j": "10.0.0.2", "j-worker-1.j": "fd00::3", "worker": "10.0.0.9"}
	const tf = `{"cluster": {"ps":["j-ps-0.j:2222"],"worker":["j-worker-0.j:2222", "j-worker-1.j:2222", "j-worker-10.j:2222"]},"task":{"type":"worker","index":0}, "j-ps-0.j:1" : "x\"j-ps-0.j:1"}`
	const want = `{"cluster": {"ps":["10.0.0.1:2222"],"worker":["10.0.0.2:2222", "[fd00::3]:2222", "j-worker-10.j:2222"]},"task":{"type":"worker","index":0}, "j-ps-0.j:1" : "x\"j-ps-0.j:1"}`
	for _, c := range []struct {
		name, value, want string
		resolves          bool
	}{
		{"TF_CONFIG", tf, want, false},
		{"TF_CONFIG", tf, tf, true},
		{"TF_CONFIG", `["j-ps-0.j:1"`, `["j-ps-0.j:1"`, false},
		{"TF_CONFIG", "j-ps-0.j:1", "j-ps-0.j:1", false},
		{"MASTER_ADDR", "j-ps-0.j", "10.0.0.1", false},
		{"OTHER", tf, tf, false},
	} {
		if got := Variable(c.name, c.value, names, c.resolves); got != c.want {
			t.Errorf("%s=%s becomes\n%s, want\n%s", c.name, c.value, got, c.want)
		}
	}
	for word, want := range map[string]string{
		"--address=j-ps-0.j:6379": "--address=10.0.0.1:6379", "--address=j-worker-1.j:6379": "--address=[fd00::3]:6379",
		"--address=auto": "--address=auto", "--address=xj-ps-0.j:6379": "--address=xj-ps-0.j:6379", "j-ps-0.j:6379": "j-ps-0.j:6379",
	} {
		if got := Word(word, names, false); got != want {
			t.Errorf("%s becomes %s, want %s", word, got, want)
		}
		if got := Word(word, names, true); got != word {
			t.Errorf("where names resolve, %s becomes %s", word, got)
		}
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
	for name, want := range map[string]bool{"VC_WORKER_HOSTS": true, "MASTER_ADDR": true, "MPI_HOST": true, "TF_CONFIG": true, "VC_WORKER_NUM": false, "HOSTS": false, "MS_SCHED_HOST": true} {
		if Rewritten(name, false) != want {
			t.Errorf("Rewritten(%q, false) = %v", name, !want)
		}
		if always := name == "MS_SCHED_HOST"; Rewritten(name, true) != always {
			t.Errorf("Rewritten(%q, true) = %v", name, !always)
		}
	}
}
