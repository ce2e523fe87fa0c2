package provider

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
)

// readDeadline bounds one query to the batch system or its file system.
const readDeadline = 45 * time.Second

// observe asks the batch system once for all our jobs, and each user's staging
// directory once for all status files. A failure changes nothing but
// Reachable: pods keep their last state.
func (b *Bridge) observe(ctx context.Context) {
	b.mu.Lock()
	b.obsSeq++
	seq := b.obsSeq
	b.mu.Unlock()
	users, recorded, open := b.owners()
	if r, ok := b.Backend.(backends.Recaller); ok {
		r.Recall(b.Owner, open)
	}

	at := b.Clock.Now()
	var obs backends.Observation
	err := b.Gate.Do(ctx, "observe", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, readDeadline)
		defer cancel()
		var err error
		obs, err = b.Backend.Observe(ctx, b.Owner, users)
		return err
	})
	got, problems := b.collect(ctx, users)

	b.mu.Lock()
	defer b.mu.Unlock()
	reachable := err == nil
	if reachable != b.view.Reachable {
		b.view.Since = at
		if reachable {
			b.Log.Info("batch system answers again")
		} else {
			b.Log.Info("batch system does not answer", "error", err.Error())
		}
	}
	b.view.Reachable, b.view.Err = reachable, err
	if err == nil {
		jobs := make(map[backends.Key][]backends.Job, len(obs.Jobs))
		for _, j := range obs.Jobs {
			jobs[j.Key] = append(jobs[j.Key], j)
		}
		b.view.Complete = obs.Complete
		if obs.Complete {
			b.view.Jobs, b.view.Seq, b.view.At = jobs, seq, at
		} else {
			// What is listed is true; what is missing proves nothing.
			merged := maps.Clone(b.view.Jobs)
			if merged == nil {
				merged = jobs
			}
			maps.Copy(merged, jobs)
			b.view.Jobs = merged
		}
	}
	// What one user's directory hides from us must not hide the others'.
	seqs := maps.Clone(b.view.FilesSeq)
	if seqs == nil {
		seqs = map[string]int64{}
	}
	for user := range got {
		seqs[user] = seq
	}
	for key, c := range b.view.Files {
		if problems[c.user] != "" {
			if got[c.user] == nil {
				got[c.user] = map[string]manifest.CollectedGang{}
			}
			got[c.user][string(key)] = c.gang
		}
	}
	files := b.filesOf(got, recorded)
	for user, why := range problems {
		if b.view.Problems[user] != why {
			b.Log.Info("could not read the staging directory", "user", user, "error", why)
		}
	}
	b.view.Files, b.view.FilesSeq, b.view.Problems = files, seqs, problems
}

// owners lists the users that may own jobs, sorted: those that the mapping
// names today, and those that pods were submitted for, since a job goes on when
// the mapping changes. recorded is the user of each key that has one, open are the
// jobs on record whose end some pod does not tell yet.
func (b *Bridge) owners() (users []string, recorded map[backends.Key]string, open []backends.JobRef) {
	recorded = map[backends.Key]string{}
	jobs := map[backends.JobRef]bool{}
	for _, p := range b.Pods.List() {
		f := facts(p)
		if f.Intent == "" || f.JobID == "" {
			continue
		}
		if _, err := staging.Root("/", f.User); err == nil { // no job runs as root or as what is no name
			recorded[f.Intent] = f.User
			if !f.Finished {
				jobs[backends.JobRef{ID: f.JobID, Key: f.Intent, User: f.User}] = true
			}
		}
	}
	b.mu.Lock()
	set := maps.Clone(b.users)
	b.mu.Unlock()
	for _, user := range recorded {
		set[user] = true
	}
	return slices.Sorted(maps.Keys(set)), recorded, slices.Collect(maps.Keys(jobs))
}

// collectParallel bounds how many users' directories are read at once.
const collectParallel = 8

// collect reads each user's staging directory; one that cannot be read costs
// the others nothing but the wait.
func (b *Bridge) collect(ctx context.Context, users []string) (got map[string]map[string]manifest.CollectedGang, problems map[string]string) {
	got, problems = map[string]map[string]manifest.CollectedGang{}, map[string]string{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(collectParallel)
	for _, user := range users {
		group.Go(func() error {
			var gangs map[string]manifest.CollectedGang
			err := b.Gate.Do(ctx, "collect", func(ctx context.Context) error {
				ctx, cancel := context.WithTimeout(ctx, readDeadline)
				defer cancel()
				c, err := b.Stager.Collect(ctx, user)
				gangs = c.Gangs
				if err == nil && c.Identity.UID > 0 {
					b.mu.Lock()
					b.ids[user] = c.Identity
					b.mu.Unlock()
				}
				return err
			})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				problems[user] = err.Error()
			} else {
				got[user] = gangs
			}
			return nil
		})
	}
	_ = group.Wait() // no function gives an error
	return got, problems
}

// filesOf gives each key the directory of the user its job belongs to. Another
// user can make a directory of the same name, with a status of his own; what
// he writes must not become the pod's. The lock must be held.
func (b *Bridge) filesOf(got map[string]map[string]manifest.CollectedGang, recorded map[backends.Key]string) map[backends.Key]collected {
	files := map[backends.Key]collected{}
	for _, user := range slices.Sorted(maps.Keys(got)) {
		for name, gang := range got[user] {
			key := backends.Key(name)
			owner := recorded[key]
			for _, j := range b.view.Jobs[key] {
				if j.User != "" && j.Owner == b.Owner {
					owner = j.User
				}
			}
			if _, taken := files[key]; owner == user || owner == "" && !taken {
				files[key] = collected{user: user, gang: gang}
			}
		}
	}
	return files
}
