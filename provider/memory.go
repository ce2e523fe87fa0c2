package provider

import (
	"maps"
	"strconv"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// memo is what the process remembers of a gang between passes. Nothing in it
// is needed for safety: a restart begins with an empty one.
type memo struct {
	busy bool // a driver owns the memo

	// quiet says that the last drive found nothing to do, at the observation and
	// with the versions of the pods below: there is nothing to do again.
	quiet     bool
	quietSeq  int64
	quietPods string

	user   string         // account of the gang
	jobs   []backends.Job // last valid list for the key, plus what our own effects returned
	seq    int64          // observation that jobs comes from
	after  int64          // observations up to this one began before our last effect
	never  bool           // we wrote the intent ourselves: no job can exist
	files  *manifest.CollectedGang
	ranks  map[string]int
	stops  map[string]stopping // by UID: members that are told to end
	absent time.Time           // recorded job missing since
	awaits []awaited           // what the gang comes after, as of the last pass

	jobEnd   time.Time            // the recorded job was first seen ended, by this daemon
	fileEnds map[string]time.Time // by UID and run: a member's file first told its end

	account account.Account   // that the last translation used
	output  *translate.Output // last translation, until staged
	staged  bool
	pulled  bool          // its images are there
	pull    manifest.Pull // else how far they are

	unreserved bool // a reservation of ours did not take its job

	reason, message string // what the gang waits for
	refused         string // permanent refusal: the pods fail with it
	refusedReason   string
	lost            bool

	failures   int       // consecutive failed steps
	conflicts  int       // consecutive lost preconditions
	retryAt    time.Time // no effect before
	unwritten  int       // consecutive reports that the API server did not take
	reportAt   time.Time // no report before
	cancelAt   time.Time // last cancel
	wantsFresh bool      // guarded by the bridge's lock, as the loop reads it any time
	announced  backends.JobID
	submitted  backends.JobID    // by this process, the last one
	idle       map[string]string // UID -> version and last patch that changed nothing: an API server may not know a field
	shown      map[string]string // UID -> version and lasting evidence that the pod's status shows
	events     map[string]int64  // UID -> number of the runner's last event that was told or seen first
	reported   map[string]string // UID -> last event text, so that an event is told once
}

// stopping is a member's stop, and how many observations had begun when its
// order was in place.
type stopping struct {
	lifecycle.Stop
	seq int64
}

// words is what the members' status takes from the memo itself.
func (m *memo) words() [4]string {
	return [4]string{m.reason, m.message, m.refused, strconv.FormatBool(m.lost)}
}

// witness adds to the evidence of a member when its end was first seen here: the
// clocks of the batch system's hosts may be other than ours.
func (m *memo) witness(ev *podstatus.Evidence, now time.Time) {
	if ev.Job != nil {
		// Also where a daemon before this one may have seen it: a file that is late
		// is waited for once more then, whatever the clocks say.
		switch over := ev.Job.State.Terminal(); {
		case !over:
			m.jobEnd = time.Time{}
		case m.jobEnd.IsZero():
			m.jobEnd = now
		}
		ev.JobEndSeen = m.jobEnd
	}
	if f := ev.File; f != nil && f.Phase.Terminal() {
		run := f.UID + " " + strconv.Itoa(f.Restart)
		if m.fileEnds == nil {
			m.fileEnds = map[string]time.Time{}
		}
		if m.fileEnds[run].IsZero() {
			m.fileEnds[run] = now
		}
		ev.FileEndSeen = m.fileEnds[run]
	}
}

// due leaves the actions that may happen now; paused says that others wait for
// the end of the pause after a failure.
func (m *memo) due(actions []lifecycle.Action, now time.Time) (due []lifecycle.Action, paused bool) {
	if !now.Before(m.retryAt) {
		return actions, false
	}
	for _, a := range actions {
		if a.Verb == lifecycle.Forget {
			due = append(due, a)
		} else {
			paused = true
		}
	}
	return due, paused
}

// memo gives the gang's memo for a new driver, or nil while one is at work.
func (b *Bridge) memo(key backends.Key) *memo {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.memos[key]
	if m == nil {
		m = &memo{stops: map[string]stopping{}, ranks: map[string]int{}, reported: map[string]string{}, events: map[string]int64{}, idle: map[string]string{}, shown: map[string]string{}}
		b.memos[key] = m
	}
	if m.busy {
		b.missed = true
		return nil
	}
	return m
}

// engaged reports whether a step of another gang is under way on one of the
// members: which pods make a gang changes when one is deleted.
func (b *Bridge) engaged(g lifecycle.Gang) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, mem := range g.Members {
		if key, ok := b.driven[mem.UID]; ok && key != g.Key {
			b.missed = true
			return true
		}
	}
	return false
}

// over reports whether nothing is left to do for the gang: every member has
// ended and was let go, and the batch system shows no job that goes on.
func (b *Bridge) over(g lifecycle.Gang) bool {
	for _, mem := range g.Members {
		if !mem.Finished || mem.Finalizer || mem.Deleting {
			return false
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, j := range b.view.Jobs[g.Key] {
		if !j.State.Terminal() {
			return false
		}
	}
	return true
}

// absorb takes over what the newest observation and collection say of the gang.
func (b *Bridge) absorb(m *memo, g lifecycle.Gang) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.view
	if !v.Reachable {
		// An order that waits for the outage's end has all its time after that.
		maps.DeleteFunc(m.stops, func(_ string, s stopping) bool { return s.Written.IsZero() })
	}
	if found := v.Jobs[g.Key]; !v.Complete && len(found) > 0 && b.obsSeq > m.after {
		m.jobs, m.never = found, false // the list lacks jobs, but not ours
	}
	if v.Seq > m.seq && v.Seq > m.after {
		m.jobs, m.seq = v.Jobs[g.Key], v.Seq
		m.wantsFresh = false
		if len(m.jobs) > 0 {
			m.never = false
		}
		if g.JobID != "" && !hasJob(m.jobs, g.JobID) {
			if m.absent.IsZero() {
				m.absent = v.At
			}
		} else {
			m.absent = time.Time{}
		}
	}
	c, ok := v.Files[g.Key]
	if m.user == "" {
		m.user = recordedUser(g)
	}
	user := m.user
	if ok {
		user = c.user
	}
	if v.FilesSeq[user] > m.after {
		if ok {
			m.files, m.user = &c.gang, c.user
			m.staged = true
			for uid, rank := range c.gang.Ranks {
				m.ranks[uid] = rank
			}
		} else {
			m.files = nil
		}
	}
}

// recordedUser is the user that the pods say their job belongs to.
func recordedUser(g lifecycle.Gang) string {
	for _, mem := range g.Members {
		if mem.User != "" {
			return mem.User
		}
	}
	return ""
}

// userOf is the user a job belongs to: the batch system's word before the
// record, and that before what today's mapping of accounts says.
func userOf(g *lifecycle.Gang, m *memo, id backends.JobID) string {
	for _, j := range m.jobs {
		if j.ID == id && j.User != "" {
			return j.User
		}
	}
	if id == g.JobID {
		if user := recordedUser(*g); user != "" {
			return user
		}
	}
	return m.user
}

func hasJob(jobs []backends.Job, id backends.JobID) bool {
	for _, j := range jobs {
		if j.ID == id {
			return true
		}
	}
	return false
}

// knowledge is the memo as the protocol sees it.
func (b *Bridge) knowledge(m *memo) lifecycle.Knowledge {
	b.mu.Lock()
	v := b.view
	b.mu.Unlock()
	k := lifecycle.Knowledge{
		Jobs:           m.jobs,
		Complete:       m.seq > 0 && m.seq > m.after,
		NeverSubmitted: m.never,
		Files:          m.files,
		FilesRead:      v.FilesSeq[m.user] > m.after,
		Ranks:          m.ranks,
		Stops:          make(map[string]lifecycle.Stop, len(m.stops)),
		AbsentSince:    m.absent,
		PullFirst:      b.Cluster.Spec.Images.Pull == "login" && !m.pulled,
		After:          predecessors(m.awaits, v, b.Backend.Capabilities().After),
		Unreachable:    !v.Reachable,
	}
	if k.Files == nil && m.staged {
		k.Files = &manifest.CollectedGang{} // staged by us, not yet collected
	}
	for uid, s := range m.stops {
		s.Seen = m.seq > s.seq
		k.Stops[uid] = s.Stop
	}
	return k
}

// touched marks an effect on the gang: what was observed before it no longer
// proves anything.
func (b *Bridge) touched(m *memo) {
	b.mu.Lock()
	defer b.mu.Unlock()
	m.after = b.obsSeq
}

// prune forgets gangs that no longer exist or have ended.
func (b *Bridge) prune(live map[backends.Key]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, m := range b.memos {
		if !live[key] && !m.busy {
			delete(b.memos, key)
		}
	}
}
