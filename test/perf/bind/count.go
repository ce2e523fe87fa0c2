package main

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// calls counts requests by what they do.
type calls struct {
	mu sync.Mutex
	by map[string]int
}

func (c *calls) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by = map[string]int{}
}

func (c *calls) add(what string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.by[what]++
}

// tell lists the requests that write.
func (c *calls) tell() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []string
	for _, what := range slices.Sorted(maps.Keys(c.by)) {
		out = append(out, fmt.Sprintf("%d %s", c.by[what], what))
	}
	return strings.Join(out, ", ")
}

// counting counts the writes that pass.
type counting struct {
	next http.RoundTripper
	to   *calls
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method != http.MethodGet {
		c.to.add(kind(r))
	}
	return c.next.RoundTrip(r)
}

// kind is the method with the resource and subresource that a request is about.
func kind(r *http.Request) string {
	words := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if i := slices.Index(words, "namespaces"); i >= 0 && len(words) > i+2 {
		words = words[i+2:]
	} else if len(words) > 3 {
		words = words[3:]
	}
	if len(words) > 2 {
		return r.Method + " " + words[0] + "/" + words[2]
	}
	return r.Method + " " + words[0]
}

// spent is processor time: of this process, and of the API server and etcd,
// which are its children. Unlike the time on the clock it hardly depends on what
// else the machine does.
type spent struct{ own, server, etcd time.Duration }

func (s spent) since(o spent) spent {
	return spent{s.own - o.own, s.server - o.server, s.etcd - o.etcd}
}

func (s spent) total() time.Duration { return s.own + s.server + s.etcd }

func (s spent) tell(pods int) string {
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(pods) / 1000 }
	return fmt.Sprintf("processor time a pod %.2f ms (own %.2f, API server %.2f, etcd %.2f)", each(s.total()), each(s.own), each(s.server), each(s.etcd))
}

// tick is the unit of times in /proc; Linux has told every program so since 2.6.
const tick = 10 * time.Millisecond

func spentSoFar() spent {
	var out spent
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) == nil {
		out.own = time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	files, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return out
	}
	for _, file := range files {
		text, err := os.ReadFile(file) //nolint:gosec // a path of the kernel's own
		if err != nil {
			continue // it has ended
		}
		name, rest, ok := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest)
		if !ok || len(fields) < 13 || fields[1] != strconv.Itoa(os.Getpid()) {
			continue
		}
		user, err1 := strconv.ParseInt(fields[11], 10, 64)
		system, err2 := strconv.ParseInt(fields[12], 10, 64)
		if err1 != nil || err2 != nil {
			continue
		}
		d := time.Duration(user+system) * tick
		switch name[strings.IndexByte(name, '(')+1:] {
		case "kube-apiserver":
			out.server += d
		case "etcd":
			out.etcd += d
		}
	}
	return out
}
