package pod

import (
	"os"
	"syscall"
	"time"
)

// controlName is the directory of a pod that orders for it come to, but for those
// about its volumes, which manifest.UpdatesDir has.
const controlName = "ctl"

const (
	// lookTwice is for how many looks after a change everything is read: what came
	// within one step of the file system's clock (a second on some) has one time.
	lookTwice = 3
	// lookAnyway is after how many looks without any change everything is read in
	// spite of that: a network file system may know better than its cache of times.
	lookAnyway = 30
)

// orders tells when to read the files by which a pod is told something. All of
// them come into one of a few directories by a rename, which changes its times; so
// a look costs one stat for each directory, whatever may come, and none of them an
// open, which is a request to the server on most shared file systems. There is no
// inotify: it sees nothing of other hosts, and a user has 128 of it a host.
type orders struct {
	gang   *os.Root
	in     string   // the pod's directory beneath gang
	dir    *os.Root // that, nil until it could be opened
	names  []string // of the directories in dir
	seen   []stamp  // of these, and of gang
	eager  int      // looks for which everything is read yet
	looked int      // looks since everything was read
}

// stamp changes with what a directory holds.
type stamp struct {
	inode        uint64
	mtime, ctime syscall.Timespec
}

func newOrders(gang *os.Root, dir string, names ...string) *orders {
	return &orders{gang: gang, in: dir, names: names, seen: make([]stamp, len(names)+1)}
}

func (o *orders) close() {
	if o.dir != nil {
		_ = o.dir.Close()
	}
}

// open opens the pod's directory and makes those in it that are looked at, so that
// there is something to be looked at.
func (o *orders) open() {
	dir, err := o.gang.OpenRoot(o.in)
	if err != nil {
		return // until it can be opened, each look reads everything
	}
	o.dir = dir
	for _, name := range o.names {
		_ = dir.Mkdir(name, 0o700) // where it cannot be, on a full disk, say, it is the same
	}
}

// due takes one look, and reports whether everything is to be read.
func (o *orders) due() bool {
	if o.dir == nil {
		o.open()
	}
	o.looked++
	for i := range o.seen {
		now, ok := o.stamp(i)
		if !ok || now != o.seen[i] {
			o.seen[i], o.eager = now, lookTwice
		}
	}
	switch {
	case o.eager > 0:
		o.eager--
	case o.looked < lookAnyway:
		return false
	}
	o.looked = 0
	return true
}

// stamp looks at one of the directories.
func (o *orders) stamp(i int) (stamp, bool) {
	root, name := o.gang, "."
	if i < len(o.names) {
		root, name = o.dir, o.names[i]
	}
	if root == nil {
		return stamp{}, false
	}
	info, err := root.Lstat(name)
	if err != nil {
		return stamp{}, false
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, false
	}
	return stamp{st.Ino, st.Mtim, st.Ctim}, true
}

// bell wakes the one who waits for it, now or at its next wait.
type bell chan struct{}

func newBell() bell { return make(bell, 1) }

func (b bell) ring() {
	select {
	case b <- struct{}{}:
	default: // one who has not looked yet will see all
	}
}

// wait blocks until it rings, for at most limit unless that is 0. It gives
// false once quit is closed.
func (b bell) wait(limit time.Duration, quit <-chan struct{}) bool {
	var late <-chan time.Time
	if limit > 0 {
		timer := time.NewTimer(limit)
		defer timer.Stop()
		late = timer.C
	}
	select {
	case <-b:
	case <-late:
	case <-quit:
		return false
	}
	return true
}

// retry is how long to wait at most after a look: what has failed is tried
// again though nothing rings.
func (r *runner) retry(failed bool) time.Duration {
	if failed {
		return r.opts.Poll
	}
	return 0
}
