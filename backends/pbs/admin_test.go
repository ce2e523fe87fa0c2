package pbs_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/pbs"
)

// adminCommands gives the commands of the section on PBS in provider/ADMIN.md.
func adminCommands(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "provider", "ADMIN.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(text), "\n## On PBS Professional, OpenPBS and Torque\n")
	if !ok {
		t.Fatal("ADMIN.md has no section on PBS")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	_, block, _ := strings.Cut(section, "```sh\n")
	block, _, ok = strings.Cut(block, "```")
	if !ok {
		t.Fatal("the section on PBS has no commands")
	}
	return strings.Split(strings.TrimSpace(block), "\n")
}

// Every command that ADMIN.md tells does what it says there.
func TestAdminCommands(t *testing.T) {
	t.Parallel()
	s := newSite(t, pbs.Pro, testbed.Config{History: true, Hosts: []testbed.Host{{Name: "n1", CPUs: 4, MemoryMiB: 4000}}})
	spec := s.spec(forever)
	ref := s.start(spec)
	s.started(spec, 1)
	commands := adminCommands(t)
	shell := func(line string) string {
		t.Helper()
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		shell := "/bin/sh" // the administrator's
		cmd := exec.CommandContext(ctx, shell, "-ec", line)
		cmd.Env = append(s.cluster.Env(), "user="+account.Alice, "job="+string(ref.ID), "host=n1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", line, err, out)
		}
		return string(out)
	}
	seen := map[string]bool{}
	for _, line := range commands {
		words := strings.Fields(line)
		what := strings.Join(words[:2], " ")
		seen[what] = true
		switch out := shell(line); what {
		case "qstat -f":
			if !strings.Contains(out, "isthmus/o/"+string(ref.Key)) && !strings.Contains(out, "job_state = R") {
				t.Errorf("%s shows %q", line, out)
			}
		case "qselect -u":
			if strings.TrimSpace(out) != string(ref.ID) {
				t.Errorf("%s shows %q", line, out)
			}
		case "qhold -h", "qrls -h":
			// The hold shows with the next run.
			s.state(ref, backends.StateRunning)
		case "qrerun \"$job\"":
			s.started(spec, 2)
			if j := s.state(ref, backends.StateRunning); j.Restarts != 1 {
				t.Errorf("after %s: %+v", line, j)
			}
		case "pbsnodes -o", "pbsnodes -r":
			inv, err := s.Inventory(t.Context())
			if err != nil || inv.Hosts[0].Usable != (what == "pbsnodes -r") {
				t.Errorf("after %s: %+v, %v", line, inv.Hosts, err)
			}
		case "qdel \"$job\"":
			s.state(ref, backends.StateCancelled)
		default:
			t.Errorf("nobody looks at what %q does", line)
		}
	}
	if len(seen) != 8 {
		t.Errorf("%d kinds of commands: %v", len(seen), seen)
	}
}
