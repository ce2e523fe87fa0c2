package nodeaddr

import (
	"fmt"
	"net/netip"
	"testing"
)

func TestNodeList(t *testing.T) {
	for want, env := range map[string][]string{
		"":             {"PATH=/bin"},
		"n[1-4]":       {"SLURM_JOB_NODELIST=n[1-4]"},
		"n1,n[2-3]":    {"SLURM_JOB_NODELIST=n1", "SLURM_JOB_NODELIST_HET_GROUP_1=n[2-3]", "SLURM_JOB_NODELIST_HET_GROUP_0=n1"},
		"one,two,last": {"SLURM_JOB_NODELIST_HET_GROUP_0=one", "SLURM_JOB_NODELIST_HET_GROUP_2=last", "SLURM_JOB_NODELIST_HET_GROUP_1=two"},
	} {
		if got := NodeList(env); got != want {
			t.Errorf("NodeList(%v) = %q, want %q", env, got, want)
		}
	}
}

func TestParseNodes(t *testing.T) {
	out := "NodeName=gpu1 Arch=x86_64 CoresPerSocket=2 NodeAddr=127.0.1.1 NodeHostName=vm Version=22.05.8 Comment=NodeAddr=1.2.3.4\n" +
		"NodeName=gpu2 NodeAddr=gpu2.cluster NodeHostName=gpu2\n\nnonsense\nNodeName=half\n"
	if got, want := fmt.Sprint(ParseNodes(out)), "map[gpu1:127.0.1.1 gpu2:gpu2.cluster]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLocal(t *testing.T) {
	got, err := Local("name-that-does-not-resolve.invalid")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := netip.ParseAddr(got); err != nil {
		t.Errorf("Local = %q: %v", got, err)
	}
}
