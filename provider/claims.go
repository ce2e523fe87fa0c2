package provider

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// byPodGroup reports whether a PodGroup makes the gang. Only there daemons may see
// different members: an attempt of a Binding has the same for ever.
func byPodGroup(g *lifecycle.Gang) bool { return strings.Contains(g.Attempt, ofPodGroup) }

// claimOrder is the order in which the gang's key is written on members: those of one
// part at once, part after part. See package lifecycle for why the lead comes first,
// and then the leads of other claims that are broken up for this one. The error says
// that nothing may be written yet.
func (b *Bridge) claimOrder(ctx context.Context, g *lifecycle.Gang, missing []lifecycle.Pod) ([][]lifecycle.Pod, error) {
	if !byPodGroup(g) || len(missing) == 0 {
		return [][]lifecycle.Pod{missing}, nil
	}
	bearers := map[backends.Key][]lifecycle.Pod{} // of other claims
	for _, mem := range g.Members {
		if mem.Intent != "" && mem.Intent != g.Key {
			if !lifecycle.Later(g.Key, mem.Intent) && !mem.Deleting && !mem.Finished {
				return nil, fmt.Errorf("claim gang %s: pod %s/%s was claimed by %s: %w", g.Key, mem.Namespace, mem.Name, mem.Intent, ErrConflict)
			}
			bearers[mem.Intent] = append(bearers[mem.Intent], mem)
		}
	}
	var unsure []backends.Key
	for key, pods := range bearers {
		if !lifecycle.Claims(b.Owner, g.Attempt, key, pods) {
			unsure = append(unsure, key)
		}
	}
	if len(unsure) > 0 {
		if err := b.ownLeads(ctx, g, unsure); err != nil {
			return nil, err
		}
	}
	var lead, leads, rest []lifecycle.Pod
	first := slices.IndexFunc(g.Members, func(p lifecycle.Pod) bool { return !p.Deleting && !p.Finished })
	seen := map[backends.Key]bool{"": true, g.Key: true}
	for _, mem := range missing { // in the members' order
		switch {
		case first >= 0 && mem.UID == g.Members[first].UID:
			lead = append(lead, mem)
		case !seen[mem.Intent]:
			leads = append(leads, mem)
		default:
			rest = append(rest, mem)
		}
		seen[mem.Intent] = true
	}
	return [][]lifecycle.Pod{lead, leads, rest}, nil
}

// ownLeads asks the API server itself whether claims whose members are not all among
// the gang's may be broken up: their leads must be members of the gang that are seen
// with the claim, or gone, and the gang must have all that belong to it. A lead that is
// seen without its claim is not taken before its other bearers, and these would go alone.
func (b *Bridge) ownLeads(ctx context.Context, g *lifecycle.Gang, claims []backends.Key) error {
	known := map[string]bool{}
	for _, p := range b.Pods.List() {
		known[string(p.UID)] = true
	}
	pods, err := b.Pods.ListLive(ctx)
	if err != nil {
		return fmt.Errorf("claim gang %s: %w", g.Key, err)
	}
	leads := map[backends.Key]lifecycle.Pod{}
	for _, p := range pods {
		f := facts(p)
		if ref, ok := groupOf(p); !ok || f.Attempt != "" || attemptOn(ref, p.Spec.NodeName) != g.Attempt || f.Deleting || f.Finished {
			continue
		}
		if !known[f.UID] {
			return fmt.Errorf("claim gang %s: pod %s/%s has just come: %w", g.Key, f.Namespace, f.Name, ErrConflict)
		}
		if lead, ok := leads[f.Intent]; slices.Contains(claims, f.Intent) && (!ok || lifecycle.Order(f, lead) < 0) {
			leads[f.Intent] = f
		}
	}
	for key, lead := range leads {
		mine := slices.ContainsFunc(g.Members, func(mem lifecycle.Pod) bool { return mem.UID == lead.UID && mem.Intent == key })
		if !mine || lead.JobID != "" {
			return fmt.Errorf("claim gang %s: pod %s/%s may be claimed by %s: %w", g.Key, lead.Namespace, lead.Name, key, ErrConflict)
		}
	}
	return nil
}

// complete sees to it that a recorded job runs the pods of its gang and no other, or
// says why it must not be released yet. Staged pods that are no members any more are
// those that were deleted, whose ranks are told not to start, and those that a daemon
// of a version which fixes no members has given another job.
func (b *Bridge) complete(ctx context.Context, g *lifecycle.Gang, m *memo, id backends.JobID) error {
	if lifecycle.Claims(b.Owner, g.Attempt, g.Key, g.Members) {
		return nil
	}
	if len(m.ranks) == 0 && (m.files != nil || !b.looked(m)) {
		return &waiting{"StagingUnread", fmt.Sprintf("batch job %s stays held until its staging directory, which tells the pods that it runs, has been read", id)}
	}
	left := map[string]int{} // ranks of what is staged and no member
	for uid, rank := range m.ranks {
		if !slices.ContainsFunc(g.Members, func(mem lifecycle.Pod) bool { return mem.UID == uid }) {
			left[uid] = rank
		}
	}
	if len(left) == 0 {
		return nil
	}
	pods, err := b.Pods.ListLive(ctx) // what a cache lacks may not have come yet
	if err != nil {
		return fmt.Errorf("release job %s: %w", id, err)
	}
	for _, p := range pods {
		f := facts(p)
		if _, staged := left[f.UID]; staged && !f.Deleting && !f.Finished {
			return &waiting{"MemberElsewhere", fmt.Sprintf("batch job %s stays held: it would run pod %s/%s too, which another batch job runs; delete this pod or that one", id, f.Namespace, f.Name)}
		}
	}
	orders := make(map[int]manifest.Stop, len(left))
	for _, rank := range left {
		orders[rank] = manifest.Stop{Reason: manifest.ReasonDeleted}
	}
	err = b.Gate.Do(ctx, string(lifecycle.Halt), func(ctx context.Context) error {
		return b.Stager.Stop(ctx, userOf(g, m, id), g.Key, orders)
	})
	if err != nil && backends.KindOf(err) != backends.KindInvalid { // without its directory the job starts nothing
		return fmt.Errorf("keep deleted members of gang %s from starting: %w", g.Key, err)
	}
	return nil
}

// looked reports whether the user's directory was read after the last effect on the gang.
func (b *Bridge) looked(m *memo) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.view.FilesSeq[m.user] > m.after
}
