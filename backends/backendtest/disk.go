package backendtest

import (
	"bytes"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Disk carries programs out as small scripts on the real file system. Its
// methods are what a Harness wants for Place, Trace and Log.
type Disk struct {
	root     string
	uid, gid int
}

// NewDisk makes a directory that every user may enter and whose working
// directories belong to uid and gid; -1 leaves them with the test's own user.
// It is removed when the test ends.
func NewDisk(t *testing.T, uid, gid int) *Disk {
	t.Helper()
	// Not t.TempDir: its parent is 0700, and the jobs run as somebody else.
	root, err := os.MkdirTemp("", "backendtest-")
	if err != nil {
		t.Fatalf("make the directory of work dirs: %v", err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Errorf("remove work dirs: %v", err)
		}
	})
	if err := os.Chmod(root, 0o711); err != nil {
		t.Fatalf("open the directory of work dirs: %v", err)
	}
	return &Disk{root: root, uid: uid, gid: gid}
}

// DiskOf is NewDisk for the user of that name.
func DiskOf(t *testing.T, name string) *Disk {
	t.Helper()
	u, err := user.Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		t.Fatal(err)
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		t.Fatal(err)
	}
	return NewDisk(t, uid, gid)
}

// Place is Harness.Place. A name that was placed before gets a directory of
// its own, under a new parent.
func (d *Disk) Place(t *testing.T, name string, p Program) string {
	t.Helper()
	parent, err := os.MkdirTemp(d.root, "p")
	if err == nil {
		err = os.Chmod(parent, 0o711)
	}
	if err != nil {
		t.Fatalf("make a parent: %v", err)
	}
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatalf("make a work dir: %v", err)
	}
	script := filepath.Join(dir, "podrun")
	if err := os.WriteFile(script, Script(p), 0o700); err != nil {
		t.Fatalf("write podrun: %v", err)
	}
	for _, path := range []string{dir, script} {
		if err := os.Chown(path, d.uid, d.gid); err != nil {
			t.Fatalf("give the work dir to its user: %v", err)
		}
	}
	return dir
}

// Trace is Harness.Trace.
func (d *Disk) Trace(t *testing.T, dir string) Trace {
	t.Helper()
	return Trace{Starts: lines(t, dir, "trace-start"), Terms: lines(t, dir, "trace-term")}
}

// Log is Harness.Log.
func (d *Disk) Log(t *testing.T, dir string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "batch.log"))
	if err != nil && !os.IsNotExist(err) {
		t.Fatalf("read batch.log: %v", err)
	}
	return string(text)
}

func lines(t *testing.T, dir, name string) int {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil && !os.IsNotExist(err) {
		t.Fatalf("read trace: %v", err)
	}
	return bytes.Count(text, []byte("\n"))
}

// Script is a podrun that does what p says, as a shell script for any POSIX sh.
// It keeps its Trace in the directory it is started in.
func Script(p Program) []byte {
	var s strings.Builder
	s.WriteString("#!/bin/sh\n")
	end := fmt.Sprintf("exit %d", p.ExitCode)
	if p.Signal != 0 {
		// The default action of the signal must be back before it is raised.
		end = fmt.Sprintf("trap - %d; kill -%d $$", p.Signal, p.Signal)
	}
	// The trap is set before the start is noted: who sees the start may send
	// the signal at once.
	switch {
	case p.IgnoreTerm:
		s.WriteString("trap 'echo term >> ./trace-term' TERM\n")
	default:
		fmt.Fprintf(&s, "trap 'echo term >> ./trace-term; %s' TERM\n", end)
	}
	// The arguments are part of the contract's script; anything else is not a start.
	s.WriteString("[ \"$*\" = 'launch .' ] || exit 99\n")
	if p.Output != "" {
		fmt.Fprintf(&s, "echo '%s'\n", p.Output)
	}
	s.WriteString("echo start >> ./trace-start\n")
	if p.UntilTerm {
		// Short sleeps in the background: wait returns at once on a signal, and
		// no sleep outlives the script for long.
		s.WriteString("while :; do sleep 1 & wait $!; done\n")
	}
	s.WriteString(end + "\n")
	return []byte(s.String())
}
