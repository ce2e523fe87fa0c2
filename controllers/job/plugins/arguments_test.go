package plugins_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/env"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/ssh"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/svc"
)

// 2.6: every plugin takes every argument that Volcano's has, and says which one it
// does not know.
func TestEveryArgument(t *testing.T) {
	t.Parallel()
	every := append(plugins.Set{env.Factory(), svc.Factory(), ssh.Factory()}, frameworks()...)
	for name, args := range map[string]string{
		"env":        "",
		"svc":        "--publish-not-ready-addresses --disable-network-policy --inject-hosts-env=false",
		"ssh":        "--ssh-key-file-path=/home/u/.ssh --ssh-port=2200",
		"tensorflow": "--ps=a --worker=b --chief=c --evaluator=d --port=1",
		"pytorch":    "--master=a --worker=b --port=1 --wait-master-enabled=true --wait-master-timeout=1 --wait-master-image=i",
		"mpi":        "--master=a --worker=b --port=1",
		"ray":        "--head=a --headContainer=b --worker=c --workerContainer=d --port=1 --dashboardPort=2 --clientPort=3",
		"hcclrank":   "--master=a --worker=b",
		"mindspore":  "--scheduler=a --server=b --worker=c --port=1",
	} {
		if _, err := every.New(name, strings.Fields(args)); err != nil {
			t.Errorf("%s %s: %v", name, args, err)
		}
		for _, arg := range strings.Fields(args) { // each alone, and as two words
			flag, value, _ := strings.Cut(arg, "=")
			if _, err := every.New(name, []string{arg}); err != nil {
				t.Errorf("%s %s: %v", name, arg, err)
			}
			if value != "" && value != "true" && value != "false" {
				if _, err := every.New(name, []string{flag, value}); err != nil {
					t.Errorf("%s %s %s: %v", name, flag, value, err)
				}
			}
		}
		if _, err := every.New(name, []string{"--surprise=1"}); err == nil || !strings.Contains(err.Error(), "surprise") {
			t.Errorf("%s takes an argument that it does not know: %v", name, err)
		}
	}
	if _, err := every.New("magic", nil); err == nil || !strings.Contains(err.Error(), "mindspore") {
		t.Errorf("a plugin that is none: %v", err)
	}
}
