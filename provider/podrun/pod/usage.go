package pod

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
)

const (
	// sampleEvery is the time between measurements, that of metrics-server's own.
	sampleEvery = 15 * time.Second
	// firstSample is how soon a container that has just started is measured.
	firstSample = 2 * time.Second
	// stale is how long a measurement that has hardly changed is left as it is: to
	// write costs the shared filesystem, and a gang has many members.
	stale = time.Minute
)

// meter measures what the containers use.
type meter struct {
	r    *runner
	seen map[*container]*reading
}

// reading is the last of one run of a container.
type reading struct {
	run     int32
	pids    map[int]bool
	gone    time.Duration // of processes that nobody in the container waited for
	cpu     time.Duration
	at      time.Time
	written manifest.Usage
}

// meter runs until the pod has ended.
func (w *watcher) meter() {
	m := &meter{r: w.r, seen: map[*container]*reading{}}
	timer := time.NewTimer(firstSample)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
		case <-w.quit:
			return
		}
		m.measure(time.Now())
		timer.Reset(sampleEvery)
	}
}

func (m *meter) measure(now time.Time) {
	var list []*container
	var marks []process.Mark
	for _, c := range m.r.all() {
		c.mu.Lock()
		if c.now != nil {
			list, marks = append(list, c), append(marks, c.now.mark)
		}
		c.mu.Unlock()
	}
	if len(list) == 0 {
		return
	}
	ended := m.r.reaper.Ended()
	used, err := process.Sample(marks)
	if err != nil {
		m.r.warn(err)
		return
	}
	for i, c := range list {
		m.note(c, used[i], ended, now)
	}
}

// note takes one measurement and has it written when it tells something new.
func (m *meter) note(c *container, u process.Usage, ended map[int]time.Duration, now time.Time) {
	run := c.number()
	last := m.seen[c]
	if last == nil || last.run != run {
		last = &reading{run: run}
		m.seen[c] = last
	}
	for pid, cpu := range ended {
		if last.pids[pid] {
			last.gone += cpu
		}
	}
	cpu := max(u.CPU+last.gone, last.cpu) // it never goes back
	next := manifest.Usage{
		Time: metav1.NewMicroTime(now), CPUNanos: uint64(cpu), //nolint:gosec // never negative
		RSSBytes: u.RSS, WorkingSetBytes: u.WorkingSet,
	}
	if since := now.Sub(last.at); !last.at.IsZero() && since > 0 {
		next.NanoCores = uint64(float64(cpu-last.cpu) / since.Seconds())
	}
	last.cpu, last.at, last.pids = cpu, now, map[int]bool{}
	for _, pid := range u.PIDs {
		last.pids[pid] = true
	}
	if !news(last.written, next) {
		return
	}
	last.written = next
	c.update(func(s *manifest.Container) {
		if s.State.Running != nil && s.RestartCount == run {
			s.Usage = &next
		}
	})
}

// news reports whether a measurement is worth writing: a percent of a core, or
// of the memory, since the last one, or much time.
func news(old, now manifest.Usage) bool {
	since := now.Time.Sub(old.Time.Time)
	if old.Time.IsZero() || since >= stale {
		return true
	}
	if now.CPUNanos-old.CPUNanos > uint64(since/100) { //nolint:gosec // time goes on
		return true
	}
	return max(now.WorkingSetBytes, old.WorkingSetBytes)-min(now.WorkingSetBytes, old.WorkingSetBytes) > max(old.WorkingSetBytes/50, 1<<20)
}
