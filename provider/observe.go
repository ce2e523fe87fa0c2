package provider

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
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
	users := make([]string, 0, len(b.users))
	for u := range b.users {
		users = append(users, u)
	}
	b.mu.Unlock()
	slices.Sort(users)

	ctx, cancel := context.WithTimeout(ctx, readDeadline)
	defer cancel()
	at := b.Clock.Now()
	var obs backends.Observation
	err := b.Gate.Do(ctx, "observe", func(ctx context.Context) error {
		var err error
		obs, err = b.Backend.Observe(ctx, b.Owner, users)
		return err
	})
	files, read, problems := map[backends.Key]collected{}, map[string]bool{}, map[string]string{}
	for _, user := range users {
		var got map[string]collected
		ferr := b.Gate.Do(ctx, "collect", func(ctx context.Context) error {
			c, err := b.Stager.Collect(ctx, user)
			if err != nil {
				return err
			}
			got = make(map[string]collected, len(c.Gangs))
			for key, g := range c.Gangs {
				got[key] = collected{user: user, gang: g}
			}
			return nil
		})
		if ferr != nil {
			problems[user] = ferr.Error()
			continue
		}
		read[user] = true
		for key, c := range got {
			files[backends.Key(key)] = c
		}
	}

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
	for user := range read {
		seqs[user] = seq
	}
	for key, c := range b.view.Files {
		if !read[c.user] {
			files[key] = c
		}
	}
	for user, why := range problems {
		if b.view.Problems[user] != why {
			b.Log.Info("could not read the staging directory", "user", user, "error", why)
		}
	}
	b.view.Files, b.view.FilesSeq, b.view.Problems = files, seqs, problems
}
