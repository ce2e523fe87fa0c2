package provider

import (
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// memo is what the process remembers of a gang between passes. Nothing in it
// is needed for safety: a restart begins with an empty one.
type memo struct {
	busy bool // a driver owns the memo

	user    string         // account of the gang
	jobs    []backends.Job // last valid list for the key, plus what our own effects returned
	seq     int64          // observation that jobs comes from
	after   int64          // observations up to this one began before our last effect
	never   bool           // we wrote the intent ourselves: no job can exist
	files   *manifest.CollectedGang
	ranks   map[string]int
	stopped map[string]int64 // UID -> observation count when its stop file was written
	absent  time.Time        // recorded job missing since

	output *translate.Output // last translation, until staged
	staged bool

	reason, message string // what the gang waits for
	refused         string // permanent refusal: the pods fail with it
	refusedReason   string
	lost            bool

	failures   int       // consecutive failed steps
	retryAt    time.Time // no effect before
	cancelAt   time.Time // last cancel
	wantsFresh bool
	released   bool
	announced  backends.JobID
	reported   map[string]string // UID -> last event text, so that an event is told once
}

func (m *memo) wantsObservation() bool { return m.wantsFresh }

// memo gives the gang's memo for a new driver, or nil while one is at work.
func (b *Bridge) memo(key backends.Key) *memo {
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.memos[key]
	if m == nil {
		m = &memo{stopped: map[string]int64{}, ranks: map[string]int{}, reported: map[string]string{}}
		b.memos[key] = m
	}
	if m.busy {
		return nil
	}
	return m
}

// absorb takes over what the newest observation and collection say of the gang.
func (b *Bridge) absorb(m *memo, g lifecycle.Gang) {
	b.mu.Lock()
	defer b.mu.Unlock()
	v := b.view
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
		Stopped:        map[string]bool{},
		AbsentSince:    m.absent,
		Unreachable:    !v.Reachable,
	}
	if k.Files == nil && m.staged {
		k.Files = &manifest.CollectedGang{} // staged by us, not yet collected
	}
	for uid, at := range m.stopped {
		k.Stopped[uid] = m.seq > at
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

// prune forgets gangs that no longer exist.
func (b *Bridge) prune(gangs []lifecycle.Gang) {
	live := make(map[backends.Key]bool, len(gangs))
	for _, g := range gangs {
		live[g.Key] = true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, m := range b.memos {
		if !live[key] && !m.busy {
			delete(b.memos, key)
		}
	}
}
