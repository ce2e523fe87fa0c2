package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// guideFiles are what people read.
var guideFiles = []string{"provider/ADMIN.md", "provider/USERS.md", "controllers/MOVING.md"}

// notForReaders are commands that the guides name and that are not for readers to
// run, or whose test is another one.
var notForReaders = map[string]string{
	"scontrol show node":      "the daemon runs it",
	"sbatch --hold":           "the daemon runs it",
	"scontrol release":        "the daemon runs it",
	"kubectl logs":            "its options are those of TestLogs",
	"kubectl exec":            "named as what is not there with slurmrestd, and as one of the calls that spec.streams is for; run by TestStreams",
	"kubectl debug":           "of the block above it",
	"kubectl top":             "needs metrics-server, with which TestTop runs it",
	"vnode --validate-config": "of the block above it",
	"controllers --vnode-user <user of vnode>": "the environment's controllers run with it",
}

var (
	blockPattern = regexp.MustCompile("(?ms)^```([a-z]*)\n(.*?)^```$")
	spanPattern  = regexp.MustCompile("`([^`\n]+)`")
	// pbsPattern is the section whose commands TestAdminCommands of backends/pbs runs.
	pbsPattern    = regexp.MustCompile(`(?s)\n## On PBS [^\n]*\n.*?\n## `)
	remarkPattern = regexp.MustCompile(`\s+# .*$`)
	// programs are the first words by which commands in running text are known.
	programs = []string{"kubectl", "helm", "vnode", "controllers", "scheduler", "squeue", "sbatch", "scancel", "scontrol", "sacct", "srun", "slurmrestd", "ssh", "vcctl"}
)

// guide runs what the guides tell people to run. Whatever it has not run at the
// end fails the test.
type guide struct {
	t     *testing.T
	dir   string   // where commands run
	env   []string // of commands
	left  []string // commands that nobody has run yet
	yamls []string // blocks that nobody has used yet
	// stopVnode ends the guide's vnode.
	stopVnode func()
	names     []string // what is replaced, by pairs: hosts and paths of the guides by those of the test
}

// readGuides finds every command and every file of the guides.
func readGuides(t *testing.T) *guide {
	t.Helper()
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	g := &guide{t: t, dir: t.TempDir()}
	var flags, unused []string
	for what := range notForReaders {
		unused = append(unused, what)
	}
	for _, file := range guideFiles {
		raw, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		text := string(raw)
		if strings.Count(text, "```")%2 != 0 {
			t.Fatalf("%s: a block has no end", file)
		}
		for _, m := range blockPattern.FindAllStringSubmatch(text, -1) {
			switch {
			case m[1] == "yaml":
				g.yamls = append(g.yamls, m[2])
			case m[1] == "sh" && strings.Contains(m[2], "qstat "): // TestAdminCommands of backends/pbs runs each of its lines
			case m[1] == "sh":
				for line := range strings.Lines(m[2]) {
					if line = strings.TrimSpace(remarkPattern.ReplaceAllString(line, "")); line != "" {
						g.left = append(g.left, line)
					}
				}
			default:
				t.Errorf("%s: a block is of kind %q; commands are of kind sh, files of kind yaml", file, m[1])
			}
		}
		text = blockPattern.ReplaceAllString(pbsPattern.ReplaceAllString(text, "\n"), "")
		for _, m := range spanPattern.FindAllStringSubmatch(text, -1) {
			span := m[1]
			first, rest, _ := strings.Cut(span, " ")
			switch {
			case strings.HasPrefix(span, "--"):
				flag, _, _ := strings.Cut(first, "=")
				flags = append(flags, flag)
			case slices.Contains(programs, first) && rest != "":
				if notForReaders[span] == "" {
					t.Errorf("%s: `%s` is a command in running text: put it into a block, where a test runs it", file, span)
				}
				unused = slices.DeleteFunc(unused, func(w string) bool { return w == span })
			}
		}
	}
	g.flags(flags)
	if len(unused) > 0 {
		t.Errorf("no guide names %q any more", unused)
	}
	return g
}

// flags checks that vnode, sbatch or the scheduler has each flag that the guides name.
func (g *guide) flags(names []string) {
	g.t.Helper()
	vnode, err := exec.CommandContext(g.t.Context(), g.program("vnode"), "-h").CombinedOutput() // its status is that of an error
	if len(vnode) == 0 {
		g.t.Fatalf("vnode -h: %v", err)
	}
	sbatch, err := here(g.t).Slurm().Run(g.t.Context(), "sbatch", "--help")
	if err != nil {
		g.t.Fatal(err)
	}
	for _, name := range names {
		if bytes.Contains(vnode, []byte("\n  "+name[1:]+" ")) || bytes.Contains(vnode, []byte("\n  "+name[1:]+"\n")) || strings.Contains(sbatch, name) {
			continue
		}
		// The scheduler shows none of Volcano's flags in its help, and knows them.
		scheduler, err := exec.CommandContext(g.t.Context(), g.program("scheduler"), name+"=x", "-h").CombinedOutput()
		if err != nil || bytes.Contains(scheduler, []byte("unknown flag")) {
			g.t.Errorf("the guides name %s, and none of vnode, sbatch and scheduler has it: %s", name, bytes.TrimSpace(scheduler))
		}
	}
}

// program is the path of one of the environment's programs.
func (g *guide) program(name string) string {
	g.t.Helper()
	argv := g.argv(name)
	return argv[0]
}

// argv is how the environment started one of its programs.
func (g *guide) argv(name string) []string {
	g.t.Helper()
	for _, p := range here(g.t).Processes() {
		if p.Name == name {
			return p.Argv
		}
	}
	g.t.Fatalf("the environment has no program %s", name)
	return nil
}

// take gives the command that begins so, and notes that it is run.
func (g *guide) take(begins string) string {
	g.t.Helper()
	i := slices.IndexFunc(g.left, func(l string) bool { return strings.HasPrefix(l, begins) })
	if i < 0 {
		g.t.Fatalf("the guides have no command %q (any more); left are %q", begins, g.left)
	}
	line := g.left[i]
	g.left = slices.Delete(g.left, i, i+1)
	return line
}

// yaml gives the block that holds what, with the test's names.
func (g *guide) yaml(what string) string {
	g.t.Helper()
	i := slices.IndexFunc(g.yamls, func(b string) bool { return strings.Contains(b, what) })
	if i < 0 {
		g.t.Fatalf("the guides have no file with %q (any more)", what)
	}
	block := g.yamls[i]
	g.yamls = slices.Delete(g.yamls, i, i+1)
	return g.named(block)
}

// named replaces the guides' hosts and paths by those of the test.
func (g *guide) named(text string) string { return strings.NewReplacer(g.names...).Replace(text) }

// command prepares a line, as an administrator's or user's shell runs it.
func (g *guide) command(ctx context.Context, line string, vars ...string) *exec.Cmd {
	shell := "/bin/sh" // that of whoever reads the guide
	cmd := exec.CommandContext(ctx, shell, "-ec", g.named(line))
	cmd.Dir, cmd.Env = g.dir, append(slices.Clone(g.env), vars...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// try runs a line and gives what it prints.
func (g *guide) try(line string, vars ...string) (string, error) {
	ctx, cancel := context.WithTimeout(g.t.Context(), 2*time.Minute)
	defer cancel()
	out, err := g.command(ctx, line, vars...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return string(out), err
}

// run runs the command of the guides that begins so; it must succeed, and print
// what is wanted.
func (g *guide) run(begins, want string, vars ...string) {
	g.t.Helper()
	out, err := g.try(g.take(begins), vars...)
	if err != nil || !strings.Contains(out, want) {
		g.t.Fatalf("%s...: %v; it printed %q, which should hold %q", begins, err, out, want)
	}
}

// until runs the command of the guides that begins so until it succeeds and
// prints what is wanted.
func (g *guide) until(begins, want string, vars ...string) {
	g.t.Helper()
	line := g.take(begins)
	eventually(g.t, 2*time.Minute, line+" prints "+want, func() (bool, string) {
		out, err := g.try(line, vars...)
		return err == nil && strings.Contains(out, want), fmt.Sprintf("%v, %q", err, out)
	})
}

// start runs the command of the guides that begins so, with more arguments, until
// the test ends or stop is called.
func (g *guide) start(begins string, change func(*exec.Cmd), more ...string) (stop func()) {
	g.t.Helper()
	line := g.take(begins)
	for _, m := range more {
		line += " " + m
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(g.t.Context()))
	var out bytes.Buffer
	cmd := g.command(ctx, "exec env "+line)
	cmd.Stdout, cmd.Stderr = &out, &out
	if change != nil {
		change(cmd)
	}
	if err := cmd.Start(); err != nil {
		cancel()
		g.t.Fatalf("%s: %v", line, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = cmd.Wait() // it is ended below
	}()
	stop = func() {
		cancel()
		<-done
	}
	g.t.Cleanup(func() {
		stop()
		if g.t.Failed() {
			text := out.Bytes()
			g.t.Logf("%s printed\n%s", line, text[max(0, len(text)-4000):])
		}
	})
	return stop
}
