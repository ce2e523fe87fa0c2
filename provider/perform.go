package provider

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podstatus"
	"github.com/isthmus-hpc/isthmus/provider/tracing"
)

const (
	// cancelPause is how long a cancel is given before it is repeated. It is
	// above Slurm's default KillWait, so that a repeat never shortens a grace.
	cancelPause = 40 * time.Second
	// apiParallel bounds the API writes of one gang under way at once.
	apiParallel = 16
)

// perform carries actions out in order and stops at the first failure. acted
// says that something changed, so that another step may follow.
func (b *Bridge) perform(ctx, work context.Context, g *lifecycle.Gang, m *memo, pods map[string]*corev1.Pod, actions []lifecycle.Action) (acted bool, err error) {
	for _, a := range actions {
		if ctx.Err() != nil && a.Verb != lifecycle.Record { // a job that is there is recorded
			return acted, ctx.Err()
		}
		did := true
		switch a.Verb {
		case lifecycle.WriteIntent:
			did, err = b.writeIntent(work, g, m, pods, a.Pods)
		case lifecycle.Stage:
			did, err = b.stage(work, g, m, pods)
		case lifecycle.Pull:
			did, err = b.pull(work, g, m, pods)
		case lifecycle.Submit:
			did, err = b.submit(work, g, m, pods)
		case lifecycle.Record:
			err = b.record(work, g, m, pods, a)
		case lifecycle.Release:
			err = b.release(work, g, m, a.JobID)
		case lifecycle.Cancel:
			did, err = b.cancel(work, g, m, a.JobID)
		case lifecycle.Halt:
			did, err = b.halt(work, g, m, a.Pods)
		case lifecycle.Forget:
			err = b.forget(work, g, pods, a.Pods)
		default:
			err = fmt.Errorf("perform %s: unknown action", a)
		}
		acted = acted || did
		if err != nil || !did {
			return acted, err
		}
	}
	return acted, nil
}

// replace puts what was written in place of what was read.
func (b *Bridge) replace(g *lifecycle.Gang, pods map[string]*corev1.Pod, written []*corev1.Pod) {
	for _, p := range written {
		if p == nil {
			continue
		}
		b.wrote(p)
		pods[string(p.UID)] = p
	}
	*g = b.refresh(*g, pods)
}

func (b *Bridge) writeIntent(ctx context.Context, g *lifecycle.Gang, m *memo, pods map[string]*corev1.Pod, missing []lifecycle.Pod) (bool, error) {
	if err := b.admit(g, pods); err != nil {
		return false, err
	}
	// Nothing is promised for a gang that could not be submitted anyway.
	if ok, err := b.prepare(ctx, g, m, pods); !ok || err != nil {
		return false, err
	}
	fresh := true
	for _, mem := range g.Members {
		fresh = fresh && mem.Intent != g.Key
	}
	order, err := b.claimOrder(ctx, g, missing)
	if err != nil {
		return false, err
	}
	for _, part := range order {
		if err := b.writeIntents(ctx, g, pods, part); err != nil {
			return true, err
		}
	}
	m.never = fresh
	return true, nil
}

// writeIntents writes the gang's key on members at once.
func (b *Bridge) writeIntents(ctx context.Context, g *lifecycle.Gang, pods map[string]*corev1.Pod, members []lifecycle.Pod) error {
	written := make([]*corev1.Pod, len(members))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(apiParallel)
	for i, mem := range members {
		group.Go(func() error {
			// As in record: the version alone is no lock.
			if have := pods[mem.UID].Annotations[wellknown.BatchJobID]; have != "" {
				return fmt.Errorf("write intent %s: pod %s/%s has job %s: %w", g.Key, mem.Namespace, mem.Name, have, ErrConflict)
			}
			return b.Gate.Do(tracing.OnPod(gctx, mem.UID), string(lifecycle.WriteIntent), func(ctx context.Context) error {
				p, err := b.Pods.WriteIntent(ctx, pods[mem.UID], g.Key)
				written[i] = p
				return err
			})
		})
	}
	err := group.Wait()
	b.replace(g, pods, written)
	return err
}

func (b *Bridge) stage(ctx context.Context, g *lifecycle.Gang, m *memo, pods map[string]*corev1.Pod) (bool, error) {
	if ok, err := b.prepare(ctx, g, m, pods); !ok || err != nil {
		return false, err
	}
	err := b.Gate.Do(ctx, string(lifecycle.Stage), func(ctx context.Context) error {
		return b.Stager.Stage(ctx, m.output.Spec.User, g.Key, *m.output)
	})
	if err != nil {
		return true, fmt.Errorf("stage gang %s: %w", g.Key, err)
	}
	m.staged, m.pulled, m.user = true, false, m.output.Spec.User
	b.noteStaged(m.output)
	return true, nil
}

func (b *Bridge) submit(ctx context.Context, g *lifecycle.Gang, m *memo, pods map[string]*corev1.Pod) (bool, error) {
	if ok, err := b.prepare(ctx, g, m, pods); !ok || err != nil {
		return false, err
	}
	if err := b.admit(g, pods); err != nil { // an earlier life wrote the intent
		return false, err
	}
	if m.user != m.output.Spec.User {
		// Staged by an earlier life, whose mapping of accounts was another.
		if did, err := b.stage(ctx, g, m, pods); !did || err != nil {
			return did, err
		}
	}
	spec := m.output.Spec
	after, ok := lifecycle.AfterJobs(b.knowledge(m).After)
	if !ok {
		return false, nil // since the step was decided on
	}
	spec.After = after
	within := ""
	if spec.Reservation == "" && !m.unreserved {
		within = b.reservedFor(g, pods)
		spec.Reservation = within
	}
	var id backends.JobID
	err := b.Gate.Do(ctx, string(lifecycle.Submit), func(ctx context.Context) error {
		var err error
		id, err = b.Backend.Submit(ctx, spec)
		tracing.SetJob(ctx, id)
		return err
	})
	b.touched(m)
	if err = notWithin(m, within, err); err != nil {
		if backends.KindOf(err) == backends.KindUnknownOutcome {
			m.never = false
			b.audit(g, m, pods, account.Unknown, "")
		} else {
			b.expel(g.Key)
		}
		return true, err
	}
	b.audit(g, m, pods, account.Submitted, id)
	m.submitted = id
	b.nowWithin(within, backends.JobRef{ID: id})
	m.jobs = append(slices.Clone(m.jobs), backends.Job{
		ID: id, Key: g.Key, Owner: b.Owner, User: m.output.Spec.User, Partition: m.output.Spec.Partition,
		State: backends.StatePending, Held: true, Submitted: b.Clock.Now(),
	})
	m.never = false
	return true, nil
}

// audit tells who in Kubernetes made a job run as whom.
func (b *Bridge) audit(g *lifecycle.Gang, m *memo, pods map[string]*corev1.Pod, outcome string, id backends.JobID) {
	if b.Audit == nil {
		return
	}
	r := m.account.Record(b.Clock.Now(), b.Cluster.Name, "", m.output.Spec.Partition, string(g.Key), string(id))
	r.Outcome, r.User, r.Account, r.QOS = outcome, m.output.Spec.User, m.output.Spec.Account, m.output.Spec.QOS
	for _, mem := range g.Members {
		p := pods[mem.UID]
		if p == nil {
			continue
		}
		r.Namespace = p.Namespace
		r.Pods, r.PodUIDs = append(r.Pods, p.Name), append(r.PodUIDs, string(p.UID))
		if sa := cmp.Or(p.Spec.ServiceAccountName, "default"); !slices.Contains(r.ServiceAccounts, sa) {
			r.ServiceAccounts = append(r.ServiceAccounts, sa)
		}
	}
	b.Audit(r)
}

// record writes the id on the lowest rank first and alone: of two daemons with
// two held jobs, the one whose write wins there has the job that will run.
func (b *Bridge) record(ctx context.Context, g *lifecycle.Gang, m *memo, pods map[string]*corev1.Pod, a lifecycle.Action) error {
	user := userOf(g, m, a.JobID)
	if user == "" {
		acct, err := b.accountOf(pods[a.Pods[0].UID])
		if err != nil {
			return err
		}
		user = acct.User
	}
	m.user = user
	tracing.SetJob(ctx, a.JobID)
	write := func(ctx context.Context, mem lifecycle.Pod) (*corev1.Pod, error) {
		// The version alone is no lock: it may be newer than what the step was
		// decided on.
		if have := pods[mem.UID].Annotations[wellknown.BatchJobID]; have != "" && have != string(a.JobID) {
			return nil, fmt.Errorf("record job %s: pod %s/%s has job %s: %w", a.JobID, mem.Namespace, mem.Name, have, ErrConflict)
		}
		if has := pods[mem.UID].Annotations[wellknown.SubmitIntent]; has != string(g.Key) {
			return nil, fmt.Errorf("record job %s: pod %s/%s has the intent %q, not %s: %w", a.JobID, mem.Namespace, mem.Name, has, g.Key, ErrConflict)
		}
		var p *corev1.Pod
		err := b.Gate.Do(tracing.OnPod(ctx, mem.UID), string(lifecycle.Record), func(ctx context.Context) error {
			var err error
			p, err = b.Pods.Record(ctx, pods[mem.UID], a.JobID, user)
			return err
		})
		return p, err
	}
	first, err := write(ctx, a.Pods[0])
	b.replace(g, pods, []*corev1.Pod{first})
	if err != nil {
		return err
	}
	rest := a.Pods[1:]
	written := make([]*corev1.Pod, len(rest))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(apiParallel)
	for i, mem := range rest {
		group.Go(func() error {
			p, err := write(gctx, mem)
			written[i] = p
			return err
		})
	}
	err = group.Wait()
	b.replace(g, pods, written)
	if err != nil {
		return err
	}
	m.output = nil // it may hold secrets, and megabytes
	if m.announced != a.JobID {
		m.announced = a.JobID
		if m.submitted != a.JobID && b.Adopted != nil {
			b.Adopted()
		}
		b.tell(m, pods, corev1.EventTypeNormal, "BatchJobSubmitted",
			fmt.Sprintf("batch job %s of user %s in partition %s", a.JobID, user, b.partitionOf(g, pods)))
	}
	return nil
}

// forged reports whether the gang's own directory, as it was staged, names none
// of these pods: then their record of the job is not ours. Whoever may create a
// pod can write annotations where nothing forbids it.
func forged(g *lifecycle.Gang, m *memo) bool {
	if m.files == nil || len(m.files.Ranks) == 0 {
		return false
	}
	for _, mem := range g.Members {
		if _, ok := m.files.Ranks[mem.UID]; ok {
			return false
		}
	}
	return true
}

func (b *Bridge) release(ctx context.Context, g *lifecycle.Gang, m *memo, id backends.JobID) error {
	if forged(g, m) {
		return &waiting{"ForeignJob", fmt.Sprintf("batch job %s is not the job of this pod", id)}
	}
	if err := b.complete(ctx, g, m, id); err != nil {
		return err
	}
	tracing.SetJob(ctx, id)
	err := b.Gate.Do(ctx, string(lifecycle.Release), func(ctx context.Context) error {
		return b.Backend.Release(ctx, backends.JobRef{ID: id, Key: g.Key, User: userOf(g, m, id)})
	})
	b.touched(m)
	if err != nil {
		return err
	}
	m.jobs = slices.Clone(m.jobs)
	for i := range m.jobs {
		if m.jobs[i].ID == id {
			m.jobs[i].Held = false
		}
	}
	return nil
}

func (b *Bridge) cancel(ctx context.Context, g *lifecycle.Gang, m *memo, id backends.JobID) (bool, error) {
	now := b.Clock.Now()
	if forged(g, m) {
		return false, &waiting{"ForeignJob", fmt.Sprintf("batch job %s is not the job of this pod", id)}
	}
	if id == g.JobID {
		if !m.cancelAt.IsZero() && now.Sub(m.cancelAt) < cancelPause {
			return false, nil
		}
	}
	for _, j := range m.jobs {
		// The id must still be a job of ours: ids are reused by batch systems.
		if j.ID == id && (j.Owner != b.Owner || j.Key != g.Key) {
			return false, fmt.Errorf("cancel job %s: it is not ours (owner %q, key %q)", id, j.Owner, j.Key)
		}
	}
	tracing.SetJob(ctx, id)
	err := b.Gate.Do(ctx, string(lifecycle.Cancel), func(ctx context.Context) error {
		return b.Backend.Cancel(ctx, backends.JobRef{ID: id, Key: g.Key, User: userOf(g, m, id)})
	})
	b.touched(m)
	if err != nil {
		return true, err
	}
	if id == g.JobID {
		m.cancelAt = now
	} else {
		m.jobs = slices.DeleteFunc(slices.Clone(m.jobs), func(j backends.Job) bool { return j.ID == id })
	}
	b.wake()
	return true, nil
}

func (b *Bridge) forget(ctx context.Context, g *lifecycle.Gang, pods map[string]*corev1.Pod, going []lifecycle.Pod) error {
	for _, mem := range going {
		pod := pods[mem.UID]
		if pod == nil {
			continue // gone since the step was decided on
		}
		err := b.Gate.Do(ctx, string(lifecycle.Forget), func(ctx context.Context) error {
			return b.Pods.Forget(ctx, pod)
		})
		if err != nil {
			return err
		}
		if !mem.Finished { // no status will tell its end any more
			b.ended(ctx, g, pod, podstatus.Evidence{})
		}
		// What remains of the pod needs nothing of us; the cache follows.
		left := pod.DeepCopy()
		left.Finalizers = nil
		if pod.DeletionTimestamp != nil {
			delete(pods, mem.UID)
		} else {
			pods[mem.UID] = left
		}
	}
	*g = b.refresh(*g, pods)
	return nil
}
