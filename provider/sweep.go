package provider

import (
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
)

const (
	// heldGrace is how long a held job without a pod is left alone: it never
	// ran and never will.
	heldGrace = time.Minute
	// releasedGrace is the same for a released one. Its pods carry our
	// finalizer, so they can only vanish by force or by an older copy of etcd.
	releasedGrace = 10 * time.Minute
	// brakeFloor and brakeShare bound how many ownerless jobs one sweep may
	// cancel: more than both means that our view is wrong, not that many users
	// deleted their pods by force.
	brakeFloor = 5
	brakeShare = 10 // percent of the known jobs
)

// sweepState remembers since when something has had no owner.
type sweepState struct {
	jobs  map[backends.JobID]time.Time
	dirs  map[backends.Key]ownerless
	brake string // why the sweep stopped, "" when it runs
}

// ownerless says since when a directory has had no owner.
type ownerless struct {
	seq int64 // observation in which that was first seen
	at  time.Time
}

// Brake tells why ownerless jobs are left alone, "" when none is.
func (b *Bridge) Brake() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sweep.brake
}

// collectGarbage cancels jobs and removes directories that no pod owns any
// more. It acts on a complete observation only, after a grace, and after
// asking the API server itself.
func (b *Bridge) collectGarbage(ctx context.Context, gangs []lifecycle.Gang) {
	owned := map[backends.Key]bool{}
	for _, g := range gangs {
		owned[g.Key] = true
		for _, m := range g.Members {
			if m.Intent != "" {
				// An abandoned key of a living pod is no longer its owner once
				// the pod has another; until then it may be.
				owned[m.Intent] = true
			}
		}
	}
	b.mu.Lock()
	v := b.view
	for key, m := range b.memos {
		if m.busy {
			owned[key] = true
		}
	}
	if b.sweep.jobs == nil {
		b.sweep.jobs, b.sweep.dirs = map[backends.JobID]time.Time{}, map[backends.Key]ownerless{}
	}
	fresh := v.Complete && v.Seq == b.obsSeq && v.Reachable
	b.mu.Unlock()
	if !fresh {
		return
	}
	now := b.Clock.Now()
	orphans, live := b.ownerlessJobs(v, owned, now)
	dirs := b.ownerlessDirs(v, owned, live, now)
	if len(orphans) == 0 && len(dirs) == 0 {
		b.setBrake("")
		return
	}
	claimed, pods, err := b.claimedLive(ctx)
	if err != nil {
		b.Log.Info("sweep waits: the API server did not answer", "error", err.Error())
		return
	}
	orphans = slices.DeleteFunc(orphans, func(j backends.Job) bool { return claimed[j.Key] })
	limit := max(brakeFloor, len(v.Jobs)*brakeShare/100)
	released := 0
	for _, j := range orphans {
		if !j.Held {
			released++
		}
	}
	switch {
	case len(orphans) > limit:
		b.setBrake(fmt.Sprintf("%d batch jobs have no pod, more than %d: none is cancelled until an administrator has looked", len(orphans), limit))
		return
	case released > 0 && pods == 0:
		b.setBrake(fmt.Sprintf("%d batch jobs run but the API server shows no pod at all: none is cancelled until an administrator has looked", released))
		return
	}
	b.setBrake("")
	for _, j := range orphans {
		err := b.Gate.Do(ctx, "sweep-cancel", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, readDeadline)
			defer cancel()
			return b.Backend.Cancel(ctx, backends.JobRef{ID: j.ID, Key: j.Key, User: j.User})
		})
		b.Log.Info("cancelled a batch job that no pod owns", "jobID", j.ID, "key", j.Key, "held", j.Held, "error", errText(err))
	}
	dirs = slices.DeleteFunc(dirs, func(key backends.Key) bool { return claimed[key] })
	b.removeDirs(ctx, v, dirs[:min(len(dirs), maxRemoved)])
}

// maxRemoved bounds the directories that one pass removes: the pods that live
// wait for it. The rest follows with the next passes.
const maxRemoved = 128

// removeDirs removes directories that nobody owns.
func (b *Bridge) removeDirs(ctx context.Context, v View, dirs []backends.Key) {
	ctx, cancel := context.WithTimeout(ctx, readDeadline)
	defer cancel()
	var group errgroup.Group // all at once, as they share commands
	for _, key := range dirs {
		group.Go(func() error {
			user := v.Files[key].user
			err := b.Gate.Do(ctx, "sweep-remove", func(ctx context.Context) error {
				return b.Stager.Remove(ctx, user, key)
			})
			if err != nil {
				b.Log.Info("could not remove a staging directory", "key", key, "user", user, "error", err.Error())
				return nil
			}
			b.mu.Lock()
			delete(b.sweep.dirs, key)
			b.mu.Unlock()
			return nil
		})
	}
	_ = group.Wait() // no function gives an error
}

// ownerlessJobs lists jobs that have been without a pod for their grace, and
// says which keys have a job that has not ended.
func (b *Bridge) ownerlessJobs(v View, owned map[backends.Key]bool, now time.Time) (orphans []backends.Job, live map[backends.Key]bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	live = map[backends.Key]bool{}
	seen := map[backends.JobID]bool{}
	for key, jobs := range v.Jobs {
		for _, j := range jobs {
			if j.State.Terminal() {
				continue
			}
			live[key] = true
			if owned[key] || j.Owner != b.Owner {
				continue
			}
			seen[j.ID] = true
			since, ok := b.sweep.jobs[j.ID]
			if !ok {
				b.sweep.jobs[j.ID] = now
				continue
			}
			grace := releasedGrace
			if j.Held {
				grace = heldGrace
			}
			if now.Sub(since) >= grace {
				orphans = append(orphans, j)
			}
		}
	}
	for id := range b.sweep.jobs {
		if !seen[id] {
			delete(b.sweep.jobs, id)
		}
	}
	slices.SortFunc(orphans, func(x, y backends.Job) int {
		if x.ID < y.ID {
			return -1
		}
		return 1
	})
	return orphans, live
}

// ownerlessDirs lists directories without a pod and without a live job in two
// observations, and for as long as spec.staging.retention keeps them.
func (b *Bridge) ownerlessDirs(v View, owned, live map[backends.Key]bool, now time.Time) []backends.Key {
	var retention time.Duration
	if r := b.Cluster.Spec.Staging.Retention; r != nil {
		retention = r.Duration
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []backends.Key
	for key, c := range v.Files {
		if v.FilesSeq[c.user] != v.Seq {
			continue
		}
		if owned[key] || live[key] {
			delete(b.sweep.dirs, key)
			continue
		}
		first, ok := b.sweep.dirs[key]
		if !ok {
			b.sweep.dirs[key] = ownerless{v.Seq, now}
		} else if v.Seq > first.seq && now.Sub(first.at) >= retention {
			out = append(out, key)
		}
	}
	for key := range b.sweep.dirs {
		if _, ok := v.Files[key]; !ok {
			delete(b.sweep.dirs, key)
		}
	}
	slices.Sort(out)
	return out
}

// claimedLive asks the API server which keys living pods claim, and how many
// pods there are.
func (b *Bridge) claimedLive(ctx context.Context) (map[backends.Key]bool, int, error) {
	pods, err := b.Pods.ListLive(ctx)
	if err != nil {
		return nil, 0, err
	}
	claimed := map[backends.Key]bool{}
	for _, p := range pods {
		if key := p.Annotations[wellknown.SubmitIntent]; key != "" {
			claimed[backends.Key(key)] = true
		}
	}
	return claimed, len(pods), nil
}

func (b *Bridge) setBrake(why string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if why != "" && why != b.sweep.brake {
		b.Log.Info("sweep stopped", "why", why)
	}
	b.sweep.brake = why
}

func errText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
