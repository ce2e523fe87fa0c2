package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/peers"
	"github.com/isthmus-hpc/isthmus/provider/podrun/restart"
	"github.com/isthmus-hpc/isthmus/provider/podrun/statusfile"
)

// final reports whether a main container that ended in an earlier run of the
// batch job stays as it is: its restart policy says so, and it was not the end
// of that run which ended it.
func (r *runner) final(c *corev1.Container, t *corev1.ContainerStateTerminated, before manifest.Status) bool {
	byOthers := t.Signal != 0 || t.ExitCode == 137 || t.ExitCode == 143 ||
		!before.StoppedAt.IsZero() && !t.FinishedAt.Before(&before.StoppedAt)
	return !byOthers && !restart.Again(r.spec.Pod.Spec.RestartPolicy, c, false, t.ExitCode)
}

// endedBefore deals with a member that came to its own end before the batch job
// was requeued: it is not run again. The others still learn where it would be,
// since they wait for all addresses.
func (r *runner) endedBefore(before manifest.Status) (bool, error) {
	if !before.Phase.Terminal() || before.Phase == manifest.PhaseFailed && !ownFailure(before) {
		return false, nil
	}
	ip, err := r.address()
	if err != nil {
		return false, err
	}
	if err := peers.Announce(r.gang, manifest.Address{Rank: r.opts.Rank, Host: r.opts.Host, IP: ip, Restart: r.opts.Restart}); err != nil {
		return false, err
	}
	before.Restart, before.Version = r.opts.Restart, manifest.Version
	file := statusfile.New(r.gang, r.dir, before, r.warn)
	file.Update(func(*manifest.Status) {})
	if err := file.Close(lastWrite); err != nil {
		return false, fmt.Errorf("member %d ended before the requeue: %w", r.opts.Rank, err)
	}
	return true, nil
}

// ownFailure reports whether a failed pod failed by itself: no container was
// killed, and nobody outside asked it to end.
func ownFailure(s manifest.Status) bool {
	if s.Reason != "" || len(s.Containers) == 0 {
		return false
	}
	for _, list := range [][]manifest.Container{s.InitContainers, s.Containers} {
		for _, c := range list {
			if t := c.State.Terminated; t != nil && (t.Signal != 0 || t.ExitCode == 137 || t.ExitCode == 143) {
				return false
			}
		}
	}
	return true
}

func endCode(p manifest.Phase) int {
	if p == manifest.PhaseSucceeded {
		return ExitSucceeded
	}
	return ExitFailed
}
