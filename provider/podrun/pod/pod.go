// Package pod runs one pod on a compute node as a kubelet would: addresses of
// the gang, volumes, init containers, sidecars, main containers with restarts,
// probes and hooks, and an end with grace. It reports through the pod's
// status.json and log files, and takes orders from files beside them.
package pod

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/crilog"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/nodeaddr"
	"github.com/isthmus-hpc/isthmus/provider/podrun/peers"
	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
	"github.com/isthmus-hpc/isthmus/provider/podrun/restart"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
	"github.com/isthmus-hpc/isthmus/provider/podrun/statusfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/stream"
)

// Exit codes of Run.
const (
	ExitSucceeded = 0
	ExitFailed    = 1
	// ExitUnrecorded: the pod could not be run, or its end could not be written.
	ExitUnrecorded = 2
)

// Bounds of what is read, and of how long a last write is tried.
const (
	maxGang    = 64 << 20
	maxPod     = 16 << 20
	maxControl = 4 << 10
	lastWrite  = 5 * time.Minute
)

// Options say what to run and how.
type Options struct {
	Dir     string // the gang's directory
	Rank    int
	Restart int    // the batch job's restart count
	Host    string // this node's name in the batch system
	// Namespaces allows user namespaces; they are used where the node lets users make them.
	Namespaces bool
	// Runtimes by name.
	Runtimes  map[string]Runtime
	Backoff   restart.Backoff
	LogLimits crilog.Limits
	Poll      time.Duration // between looks at the control files
	Env       []string      // the batch job's environment
	// Terminate is closed when the batch system wants the job to end.
	Terminate <-chan struct{}
	// Errors receives one line for each problem that no status can tell.
	Errors io.Writer
}

// runner is one run of Run.
type runner struct {
	opts      Options
	gang      *os.Root
	dir       string // pods/<rank>, beneath gang
	gangFile  manifest.Gang
	spec      manifest.Pod
	status    *statusfile.File
	stop      *stopper
	reaper    *process.Reaper
	driver    *stage.Driver
	runtime   Runtime
	store     *image.Store // for runtimes of images
	imagesMu  sync.Mutex
	usersTold map[string]bool // by digest of the image
	briefs    int
	fetched   int    // containers that have their image
	self      string // path of this program, once it was wanted
	scratch   *scratch
	volumes   map[string]volume
	contents  *contents // nil when no volume has any; of one goroutine at a time
	at        place
	hostsFile string
	inits     []*container
	mains     []*container
	warnMu    sync.Mutex

	handedOver bell // there may be newer contents of volumes
	extended   bell // there may be more added containers
	requests   *server
	listMu     sync.Mutex // of the lists, once requests are served
	ephemerals []*container
	added      *ephemerals
}

// Run runs the pod to its end and gives the exit code. It blocks for as long as
// the pod lives. A pod that has already ended in this run of the batch job is
// not run again: that is success.
func Run(o Options) int {
	r := &runner{opts: o, dir: path.Join("pods", strconv.Itoa(o.Rank)), stop: newStopper(), added: &ephemerals{stop: newStopper()},
		handedOver: newBell(), extended: newBell()}
	code, err := r.start()
	if err != nil {
		r.warn(err)
		return ExitUnrecorded
	}
	return code
}

func (r *runner) warn(err error) {
	r.warnMu.Lock()
	defer r.warnMu.Unlock()
	fmt.Fprintf(r.opts.Errors, "podrun: rank %d: %v\n", r.opts.Rank, err)
}

func (r *runner) start() (int, error) {
	var err error
	if r.gang, err = os.OpenRoot(r.opts.Dir); err != nil {
		return 0, fmt.Errorf("open gang directory: %w", err)
	}
	defer r.gang.Close()
	if err := atomicfile.ReadJSON(r.gang, "gang.json", maxGang, &r.gangFile); err != nil {
		return 0, err
	}
	if r.opts.Rank < 0 || r.opts.Rank >= len(r.gangFile.Members) {
		return 0, fmt.Errorf("rank %d is not one of the gang's %d", r.opts.Rank, len(r.gangFile.Members))
	}
	lock, err := r.only()
	if err != nil {
		return 0, err
	}
	defer lock.Close()
	before, err := statusfile.Read(r.gang, r.dir)
	known := err == nil
	if known && before.Restart == r.opts.Restart && before.Phase.Terminal() {
		return ExitSucceeded, nil
	}
	if known && before.Restart > r.opts.Restart {
		return 0, fmt.Errorf("status.json is of restart %d, after this run's %d", before.Restart, r.opts.Restart)
	}
	if known && before.Restart < r.opts.Restart {
		if over, err := r.endedBefore(before); over || err != nil {
			return endCode(before.Phase), err
		}
	}
	first := manifest.Status{
		Version: manifest.Version, Restart: r.opts.Restart, Rank: r.opts.Rank, Host: r.opts.Host,
		UID:   r.gangFile.Members[r.opts.Rank].UID,
		Phase: manifest.PhaseStarting, StartedAt: metav1.Now(),
	}
	if known {
		first.Events = before.Events
	}
	if known && before.Restart == r.opts.Restart {
		first.Seq, first.StartedAt = before.Seq, before.StartedAt
	}
	specErr := atomicfile.ReadJSON(r.gang, path.Join(r.dir, "pod.json"), maxPod, &r.spec)
	if specErr == nil {
		specErr = refuse(&r.spec, r.opts.Runtimes)
	}
	if specErr == nil {
		r.runtime = r.opts.Runtimes[r.spec.Runtime]
	}
	if specErr == nil {
		r.plan(&first, before, known)
	}
	r.status = statusfile.New(r.gang, r.dir, first, r.warn)
	r.status.Update(func(*manifest.Status) {})
	r.requests = r.serve(lock)
	defer r.requests.close()
	if specErr != nil {
		r.stop.request(0, cause{reason: "InvalidSpec", message: specErr.Error(), failed: true})
	} else if err := r.run(); err != nil {
		r.stop.request(0, cause{reason: reasonCreate, message: err.Error(), failed: true})
	}
	phase := r.conclude()
	// The status is the last word: nothing of the pod lives any more.
	if err := r.status.Close(lastWrite); err != nil {
		r.cleanUp()
		return 0, err
	}
	r.cleanUp()
	return endCode(phase), nil
}

// only makes sure that no other runner of this pod is at work on this node. The
// name is free again when this process ends, however it does.
func (r *runner) only() (net.Listener, error) {
	name, err := stream.Address(r.gang, r.gangFile.Attempt, r.opts.Rank)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("unix", name)
	if err != nil {
		return nil, fmt.Errorf("another runner of this pod is at work: %w", err)
	}
	return l, nil
}

// plan makes the containers and their first status. What an earlier run left
// counts on: a container that had run before is restarted.
func (r *runner) plan(s *manifest.Status, before manifest.Status, known bool) {
	find := func(list []manifest.Container, name string) *manifest.Container {
		for i := range list {
			if known && list[i].Name == name {
				return &list[i]
			}
		}
		return nil
	}
	waiting := reasonCreating
	if len(r.spec.Pod.Spec.InitContainers) > 0 {
		waiting = reasonInitializing
	}
	make1 := func(spec *corev1.Container, at string, old *manifest.Container, main bool) (*container, manifest.Container) {
		c := &container{pod: r, spec: spec, at: at, stop: r.stop, started: make(chan struct{}), grace: time.Duration(r.spec.GraceSeconds) * time.Second}
		st := manifest.Container{Name: spec.Name, State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: waiting}}}
		if old != nil {
			st.RestartCount, st.LastState = old.RestartCount, old.LastState
			switch {
			case old.State.Terminated != nil:
				st.LastState, st.RestartCount = old.State, old.RestartCount+1
			case old.State.Running != nil:
				st.LastState = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
					ExitCode: 137, Reason: "ContainerStatusUnknown", Message: "the batch job was requeued or its runner lost while the container ran",
					StartedAt: old.State.Running.StartedAt, ContainerID: old.ContainerID}}
				st.RestartCount++
			case old.State.Waiting != nil && old.State.Waiting.Reason == reasonBackOff:
				st.RestartCount++
			}
			c.restarts = st.RestartCount
			if over := old.State.Terminated; over != nil && main && r.final(spec, over, before) {
				st.RestartCount, st.LastState, st.State = old.RestartCount, old.LastState, old.State
				st.ContainerID, c.done = old.ContainerID, &outcome{code: over.ExitCode}
			}
		}
		return c, st
	}
	if known {
		s.Ephemeral = keepEphemerals(before.Ephemeral)
	}
	for i := range r.spec.Pod.Spec.InitContainers {
		spec := &r.spec.Pod.Spec.InitContainers[i]
		c, st := make1(spec, fmt.Sprintf("spec.initContainers[%d]", i), find(before.InitContainers, spec.Name), false)
		c.slot = func(s *manifest.Status) *manifest.Container { return &s.InitContainers[i] }
		if c.init = !restart.IsSidecar(spec); !c.init {
			c.stop = newStopper() // sidecars go last, each in its turn
		}
		r.inits, s.InitContainers = append(r.inits, c), append(s.InitContainers, st)
	}
	for i := range r.spec.Pod.Spec.Containers {
		spec := &r.spec.Pod.Spec.Containers[i]
		c, st := make1(spec, fmt.Sprintf("spec.containers[%d]", i), find(before.Containers, spec.Name), true)
		c.slot = func(s *manifest.Status) *manifest.Container { return &s.Containers[i] }
		r.mains, s.Containers = append(r.mains, c), append(s.Containers, st)
	}
}

// hostname is what the pod calls itself.
func (r *runner) hostname() string {
	if h := r.spec.Pod.Spec.Hostname; h != "" {
		return h
	}
	return r.spec.Pod.Name
}

// run brings the pod up and stays until all its containers have ended.
func (r *runner) run() error {
	watch := newWatcher(r)
	defer watch.close()
	var err error
	if r.reaper, err = process.NewReaper(); err != nil {
		return err
	}
	defer r.reaper.Close()
	defer r.requests.close() // while ends of processes are still noticed
	if err := r.meet(); err != nil || r.stop.stopping() {
		return err
	}
	if r.gangFile.Listen {
		r.requests.overNetwork(r.at.ip)
	}
	if r.scratch, err = newScratch(os.Getenv("TMPDIR"), fmt.Sprintf("%s-%d", r.gangFile.Key, r.opts.Rank)); err != nil {
		return err
	}
	if r.driver, err = stage.New(r.reaper, r.scratch.mountDir(), r.opts.Namespaces); err != nil {
		return err
	}
	if err := r.furnish(); err != nil {
		return err
	}
	if r.runtime.Image() {
		if err := r.openStore(); err != nil {
			return err
		}
		defer r.removeSecrets()
		defer r.store.Close()
		using, done := context.WithCancel(context.Background())
		defer done()
		go r.store.Keep(using)
	}
	watch.volumes(r.volumes)
	watch.wg.Go(watch.meter)
	watch.contents()
	r.containers()
	if err := process.KillDescendants(killLimit); err != nil {
		r.warn(err)
	}
	return nil
}

// meet exchanges addresses with the rest of the gang.
func (r *runner) meet() error {
	ip, err := r.address()
	if err != nil {
		return err
	}
	r.at = place{ip: ip, hostIP: ip}
	r.status.Update(func(s *manifest.Status) { s.HostIP = ip })
	if err := peers.Announce(r.gang, manifest.Address{Rank: r.opts.Rank, Host: r.opts.Host, IP: ip, Restart: r.opts.Restart}); err != nil {
		return err
	}
	set, ok := peers.Published(r.gang, r.opts.Restart)
	size := len(r.gangFile.Members)
	wait, nextGather := 20*time.Millisecond, time.Now()
	for !ok {
		// The launcher publishes the whole; a member looks for itself as well, large
		// gangs seldom, since each look costs the filesystem a read per member.
		if now := time.Now(); !now.Before(nextGather) {
			set.Restart = r.opts.Restart
			missing := set.Gather(r.gang, size)
			if len(missing) == 0 {
				break
			}
			if size > 16 {
				nextGather = now.Add(10 * time.Second)
			}
			r.waitingFor(missing, size)
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-r.stop.requested:
			timer.Stop()
			return nil
		}
		wait = min(2*wait, time.Second)
		var published peers.Set
		if published, ok = peers.Published(r.gang, r.opts.Restart); ok {
			set = published
		}
	}
	r.at.names = peers.Names(r.gangFile.Members, set)
	etc, err := peers.EtcHosts(r.gangFile.Members, set, r.spec.Pod.Spec.HostAliases)
	if err != nil {
		return err
	}
	if err := atomicfile.Write(r.gang, path.Join(r.dir, "hosts"), etc); err != nil {
		return err
	}
	r.status.Update(func(s *manifest.Status) { s.Reason, s.Message = "", "" })
	return nil
}

func (r *runner) waitingFor(missing []int, size int) {
	names := make([]string, 0, 5)
	for _, rank := range missing[:min(len(missing), 5)] {
		names = append(names, r.gangFile.Members[rank].Name)
	}
	more := ""
	if len(missing) > len(names) {
		more = " and others"
	}
	text := fmt.Sprintf("%d of %d members have started; waiting for %s%s", size-len(missing), size, strings.Join(names, ", "), more)
	if now := r.status.Get(); now.Message == text {
		return
	}
	r.status.Update(func(s *manifest.Status) { s.Reason, s.Message = "WaitingForPeers", text })
}

// address is this node's address as the launcher found it, or as it can be found here.
func (r *runner) address() (string, error) {
	if hosts, ok := peers.ReadHosts(r.gang, r.opts.Restart); ok {
		if ip := hosts.Addresses[r.opts.Host]; ip != "" {
			return ip, nil
		}
	}
	return nodeaddr.Local(r.opts.Host)
}

// furnish makes the volumes and the hosts file.
func (r *runner) furnish() error {
	abs, err := filepath.Abs(r.opts.Dir)
	if err != nil {
		return err
	}
	abs = filepath.Join(abs, r.dir)
	r.hostsFile = filepath.Join(abs, "hosts")
	if err := r.gang.Chmod(path.Join(r.dir, "hosts"), 0o644); err != nil {
		return err
	}
	if ok, why := r.driver.Namespaces(); ok || r.runtime.Image() {
		r.at.resolves = true
	} else if r.opts.Namespaces {
		r.warn(errors.New("no user namespaces on this node: " + why))
	}
	for _, v := range r.spec.Volumes {
		if v.Kind == "files" && r.contents == nil {
			r.contents = &contents{gang: r.gang, dir: r.dir, spec: &r.spec, at: r.at}
		}
	}
	if r.contents != nil {
		now, news, err := r.contents.update()
		if !news {
			return err
		}
		if err != nil {
			r.warn(err) // of a newer hand-over than the one that was taken
		}
		r.status.Update(func(s *manifest.Status) { s.Contents = now })
	}
	r.volumes, err = prepareVolumes(&r.spec, r.scratch, func(name string) string { return filepath.Join(abs, "live", name) })
	return err
}

// conclude writes the pod's end.
func (r *runner) conclude() manifest.Phase {
	why, stopped := r.stop.why()
	var phase manifest.Phase
	r.status.Update(func(s *manifest.Status) {
		phase = restart.Phase(s.Containers)
		if len(s.Containers) == 0 || (stopped && why.failed) {
			phase = manifest.PhaseFailed
		}
		s.Phase, s.FinishedAt = phase, metav1.Now()
		if s.Reason == "WaitingForPeers" {
			s.Reason, s.Message = "", ""
		}
		if stopped && phase == manifest.PhaseFailed {
			s.Reason, s.Message = why.reason, why.message
		}
	})
	return phase
}

func (r *runner) cleanUp() {
	if r.scratch == nil {
		return
	}
	if err := r.scratch.remove(); err != nil {
		r.warn(fmt.Errorf("remove scratch space: %w", err))
	}
}
