package main

import (
	"fmt"
	"strings"
	"time"
)

// job is one job as the server knows it.
type job struct {
	seq           int
	array         bool // an array, which is listed and never runs
	server        string
	name          string
	user          string
	uid           uint32
	queue         string
	account       string
	project       string
	chunks        []chunk
	asked         []string // Resource_List lines, "name = value"
	place         string
	walltime      time.Duration
	vars          []string // NAME=value
	args          string
	script        []byte
	shell         string
	stdout        string
	stderr        string
	join          string
	keep          string
	mail          string
	rerun         bool
	holds         string // any of u, o, s
	state         string
	substate      int
	comment       string
	runs          int
	exit          *int
	placed        []placement
	ctime, mtime  time.Time
	qtime, etime  time.Time
	stime, obit   time.Time
	session       int
	terminatedBy  string
	historyAt     time.Time
	run           *running
	suspended     bool
	estimated     time.Time
	submitHost    string
	keepCompleted time.Time // when Torque forgets it
	after, before []*job    // which it waits for, and which wait for it
}

// placement is where one chunk runs.
type placement struct {
	vnode *vnode
	chunk *chunk
	slot  int   // the first slot of exec_host
	gpus  []int // devices of its host, as Torque gives them
}

// chunk is n equal parts of a request.
type chunk struct {
	n          int
	cpus, gpus int64
	memoryKB   int64
	resources  map[string]string
	properties []string
	mpiprocs   int
}

func (j *job) id() string {
	if j.array {
		return fmt.Sprintf("%d[].%s", j.seq, j.server)
	}
	return fmt.Sprintf("%d.%s", j.seq, j.server)
}

func (j *job) ended() bool { return j.state == "F" || j.state == "C" }

// touch notes a change.
func (j *job) touch() { j.mtime = time.Now() }

// vnodeText is exec_vnode.
func (j *job) vnodeText() string {
	var parts []string
	for _, p := range j.placed {
		text := fmt.Sprintf("%s:ncpus=%d", p.vnode.name, p.chunk.cpus)
		if p.chunk.gpus > 0 {
			text += fmt.Sprintf(":ngpus=%d", p.chunk.gpus)
		}
		if p.chunk.memoryKB > 0 {
			text += fmt.Sprintf(":mem=%dkb", p.chunk.memoryKB)
		}
		parts = append(parts, "("+text+")")
	}
	return strings.Join(parts, "+")
}

// hostText is exec_host: "n1/0*4+n2/1*4" in PBS, "n1/0-3+n2/4" in Torque.
func (j *job) hostText(torque bool) string {
	var parts []string
	for _, p := range j.placed {
		text := fmt.Sprintf("%s/%d", p.vnode.host, p.slot)
		switch {
		case torque && p.chunk.cpus > 1:
			text += fmt.Sprintf("-%d", p.slot+int(p.chunk.cpus)-1)
		case !torque && p.chunk.cpus > 1:
			text += fmt.Sprintf("*%d", p.chunk.cpus)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, "+")
}

// gpuText is Torque's exec_gpus.
func (j *job) gpuText() string {
	var parts []string
	for _, p := range j.placed {
		for _, g := range p.gpus {
			parts = append(parts, fmt.Sprintf("%s-gpu/%d", p.vnode.host, g))
		}
	}
	return strings.Join(parts, "+")
}

// nodeFile gives the lines of PBS_NODEFILE: one a chunk and rank in PBS, one a
// CPU in Torque.
func (j *job) nodeFile(torque bool) string {
	var b strings.Builder
	for _, p := range j.placed {
		n := max(1, p.chunk.mpiprocs)
		if torque {
			n = int(p.chunk.cpus)
		}
		for range n {
			b.WriteString(p.vnode.host + "\n")
		}
	}
	return b.String()
}
