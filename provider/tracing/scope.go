package tracing

import (
	"context"
	"sync"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Gang is the identity of a gang attempt.
type Gang struct {
	Key       backends.Key
	Partition string
	Pods      []Pod // by rank
}

// Pod is the identity of a pod.
type Pod struct{ Namespace, Name, UID string }

// scope is what an effect belongs to.
type scope struct {
	gang Gang
	pod  string // UID; "" for the whole gang
	job  *jobBox
}

// jobBox holds the id of the gang's job, which is learned on the way.
type jobBox struct {
	mu sync.Mutex
	id backends.JobID
}

func (b *jobBox) get() backends.JobID {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.id
}

type scopeKey struct{}

// With says that the effects under ctx are of the gang, whose job is id when it
// is known.
func With(ctx context.Context, g Gang, id backends.JobID) context.Context {
	return context.WithValue(ctx, scopeKey{}, &scope{gang: g, job: &jobBox{id: id}})
}

// OnPod says that the effects under ctx are on one pod of the gang. Without a
// gang it gives ctx back.
func OnPod(ctx context.Context, uid string) context.Context {
	s, ok := ctx.Value(scopeKey{}).(*scope)
	if !ok {
		return ctx
	}
	return context.WithValue(ctx, scopeKey{}, &scope{gang: s.gang, pod: uid, job: s.job})
}

// SetJob says which job the effect under way is about; it is safe to call in the
// middle of the effect that makes the job. Without a gang it does nothing.
func SetJob(ctx context.Context, id backends.JobID) {
	if s, ok := ctx.Value(scopeKey{}).(*scope); ok {
		s.job.mu.Lock()
		defer s.job.mu.Unlock()
		s.job.id = id
	}
}

// target is the pod under whose root the effect lies.
func (s *scope) target() (Pod, bool) {
	for _, p := range s.gang.Pods {
		if s.pod == "" || p.UID == s.pod {
			return p, true
		}
	}
	return Pod{}, false
}
