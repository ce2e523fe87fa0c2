package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// config is what DIR/config.json holds.
type config struct {
	Name    string `json:"name"`    // of the server
	Version string `json:"version"` // "23.06.06" when empty, Torque's "6.1.3"
	Torque  bool   `json:"torque"`
	History bool   `json:"history"`
	// KillDelay is the time from SIGTERM to SIGKILL, KeepCompleted how long Torque
	// lists an ended job, both in milliseconds.
	KillDelay     int64       `json:"killDelay"`
	KeepCompleted int64       `json:"keepCompleted"`
	Hosts         []hostSpec  `json:"hosts"`
	Queues        []queueSpec `json:"queues"`
	// HideOthers lets users see their own jobs only.
	HideOthers bool `json:"hideOthers"`
}

type hostSpec struct {
	Name       string            `json:"name"`
	VNodes     int               `json:"vnodes"` // more than one: host, host[0], host[1] ... each with all of what follows
	CPUs       int64             `json:"cpus"`
	MemoryMiB  int64             `json:"memoryMiB"`
	GPUs       int64             `json:"gpus"`
	Resources  map[string]string `json:"resources"`  // of PBS, such as accelerator_model
	Properties []string          `json:"properties"` // of Torque
}

type queueSpec struct {
	Name            string   `json:"name"`
	Hosts           []string `json:"hosts"` // empty is all
	MaxWalltime     string   `json:"maxWalltime"`
	DefaultWalltime string   `json:"defaultWalltime"`
	Disabled        bool     `json:"disabled"`
	Route           bool     `json:"route"`
}

// server is the whole batch system.
type server struct {
	config
	dir string

	mu       sync.Mutex
	listener *net.UnixListener
	vnodes   []*vnode
	jobs     map[int]*job
	next     int
	lose     map[string]int // replies to lose, by command
	began    time.Time
	ended    bool
}

// vnode is a part of a host that takes jobs.
type vnode struct {
	name, host    string
	cpus, gpus    int64
	memoryKB      int64
	resources     map[string]string
	properties    []string
	offline, down bool
	natural       bool // stands for its host and holds nothing
	changed       time.Time
}

func newServer(dir string) (*server, error) {
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, err
	}
	s := &server{dir: dir, jobs: map[int]*job{}, lose: map[string]int{}, began: time.Now()}
	if err := json.Unmarshal(text, &s.config); err != nil {
		return nil, fmt.Errorf("parse config.json: %w", err)
	}
	if s.Name == "" {
		s.Name = "pbs"
	}
	if s.Version == "" {
		s.Version = "23.06.06"
		if s.Torque {
			s.Version = "6.1.3"
		}
	}
	for _, h := range s.Hosts {
		s.addHost(h)
	}
	for _, d := range []string{"aux", "spool"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *server) addHost(h hostSpec) {
	resources := map[string]string{}
	for k, v := range h.Resources {
		resources[k] = v
	}
	var lists []string
	for _, q := range s.Queues {
		if slices.Contains(q.Hosts, h.Name) {
			lists = append(lists, q.Name)
		}
	}
	if len(lists) > 0 {
		resources["Qlist"] = strings.Join(lists, ",")
	}
	one := vnode{
		name: h.Name, host: h.Name, cpus: h.CPUs, gpus: h.GPUs, memoryKB: h.MemoryMiB << 10,
		resources: resources, properties: append(slices.Clone(h.Properties), lists...), changed: s.began,
	}
	if h.VNodes <= 1 {
		s.vnodes = append(s.vnodes, &one)
		return
	}
	s.vnodes = append(s.vnodes, &vnode{name: h.Name, host: h.Name, natural: true, resources: resources, changed: s.began})
	for i := range h.VNodes {
		part := one
		part.name = fmt.Sprintf("%s[%d]", h.Name, i)
		s.vnodes = append(s.vnodes, &part)
	}
}

// open begins to answer commands.
func (s *server) open() error {
	l, err := s.listen("socket")
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.listener = l
	return nil
}

// gone makes the server seem gone: commands are refused, jobs go on.
func (s *server) gone() error {
	s.mu.Lock()
	l := s.listener
	s.listener = nil
	s.mu.Unlock()
	if l == nil {
		return errors.New("it is gone already")
	}
	return l.Close()
}

// loses reports whether the reply to a command is to be lost.
func (s *server) loses(name string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lose[name] == 0 {
		return false
	}
	s.lose[name]--
	return true
}

// end kills all jobs.
func (s *server) end() {
	s.mu.Lock()
	s.ended = true
	var running []*job
	for _, j := range s.jobs {
		if j.run != nil {
			running = append(running, j)
		}
	}
	s.mu.Unlock()
	for _, j := range running {
		j.run.kill()
	}
}

// do carries a command out.
func (s *server) do(r *request) reply {
	switch r.Name {
	case "pbs_tmrsh", "pbsdsh":
		return s.spawn(r) // waits for the task
	case "standin":
		return s.control(r)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.schedule()
	switch r.Name {
	case "qsub":
		return s.qsub(r)
	case "qstat":
		return s.qstat(r)
	case "qdel":
		return s.qdel(r)
	case "qrls", "qhold":
		return s.hold(r)
	case "qselect":
		return s.qselect(r)
	case "qsig":
		return s.qsig(r)
	case "qrerun":
		return s.qrerun(r)
	case "pbsnodes":
		return s.pbsnodes(r)
	}
	return reply{Err: r.Name + ": not a command of the stand-in\n", Code: 127}
}

// control serves the tests: what happens to a site.
func (s *server) control(r *request) reply {
	if r.uid != 0 && r.uid != uint32(os.Getuid()) { //nolint:gosec // a uid has 32 bits
		return reply{Err: "standin: not allowed\n", Code: 1}
	}
	err := s.controlled(r.Args)
	if err != nil {
		return reply{Err: "standin: " + err.Error() + "\n", Code: 1}
	}
	return reply{}
}

func (s *server) controlled(args []string) error {
	verb, args := args[0], args[1:]
	switch verb {
	case "gone":
		return s.gone()
	case "back":
		return s.open()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.schedule()
	switch {
	case verb == "history" && len(args) == 1:
		s.History = args[0] == "on"
		for n, j := range s.jobs {
			if j.ended() && !s.History {
				delete(s.jobs, n)
			}
		}
	case verb == "lose" && len(args) == 2:
		n, err := strconv.Atoi(args[1])
		s.lose[args[0]] = n
		return err
	case (verb == "down" || verb == "up") && len(args) == 1:
		s.setDown(args[0], verb == "down")
	case verb == "suspend" || verb == "resume":
		j := s.find(args[0])
		if j == nil || j.run == nil {
			return errors.New("the job does not run")
		}
		j.suspend(verb == "suspend")
	default:
		return fmt.Errorf("unknown control %q", verb)
	}
	return nil
}

// setDown lets a host fail: its processes are killed, and its jobs run again or end.
func (s *server) setDown(host string, down bool) {
	for _, v := range s.vnodes {
		if v.host == host {
			v.down, v.changed = down, time.Now()
		}
	}
	if !down {
		return
	}
	for _, j := range s.ordered() {
		if j.run == nil || !slices.ContainsFunc(j.placed, func(p placement) bool { return p.vnode.host == host }) {
			continue
		}
		if j.rerun {
			j.run.why = whyRequeue
		} else {
			j.run.why = whyNode
		}
		j.run.kill()
	}
}

// ordered lists the jobs by their number.
func (s *server) ordered() []*job {
	out := make([]*job, 0, len(s.jobs))
	for _, j := range s.jobs {
		out = append(out, j)
	}
	slices.SortFunc(out, func(a, b *job) int { return a.seq - b.seq })
	return out
}

// find gives the job of an id, with or without the server's name.
func (s *server) find(id string) *job {
	number, server, has := strings.Cut(id, ".")
	if has && server != s.Name {
		return nil
	}
	n, err := strconv.Atoi(strings.TrimSuffix(number, "[]"))
	if err != nil {
		return nil
	}
	return s.jobs[n]
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	u, err := user.LookupId(id)
	if err != nil {
		return id
	}
	return u.Username
}
