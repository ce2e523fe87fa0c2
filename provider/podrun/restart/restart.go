// Package restart decides what happens after a container ended: whether it runs
// again, after how long, and what its pod's end is. It is pure.
package restart

import (
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// IsSidecar reports whether an init container is one that keeps running.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Again reports whether container c of a pod runs again after it ended with
// exitCode. init is true for an init container that is no sidecar: it is done
// once it succeeded, whatever the policy.
func Again(pod corev1.RestartPolicy, c *corev1.Container, init bool, exitCode int32) bool {
	policy := pod
	if policy == "" {
		policy = corev1.RestartPolicyAlways // the API's default
	}
	if c.RestartPolicy != nil {
		for _, r := range c.RestartPolicyRules {
			if r.Action == corev1.ContainerRestartRuleActionRestart && matches(r.ExitCodes, exitCode) {
				return true
			}
		}
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	default:
		return !init || exitCode != 0
	}
}

func matches(on *corev1.ContainerRestartRuleOnExitCodes, exitCode int32) bool {
	if on == nil {
		return false
	}
	in := slices.Contains(on.Values, exitCode)
	if on.Operator == corev1.ContainerRestartRuleOnExitCodesOpNotIn {
		return !in
	}
	return in
}

// Backoff is the wait before a container runs again: none after its first end,
// then Base, doubled with each end up to Max. After a run of at least Reset it
// starts over.
type Backoff struct {
	Base, Max, Reset time.Duration
}

// NeverEnded is the last wait of a container that has not ended before.
const NeverEnded time.Duration = -1

// Kubelet is the back-off of the kubelet.
func Kubelet() Backoff {
	return Backoff{Base: 10 * time.Second, Max: 5 * time.Minute, Reset: 10 * time.Minute}
}

// Next gives the wait after a run of the given length, when last was the wait
// before that run, or NeverEnded.
func (b Backoff) Next(last, ran time.Duration) time.Duration {
	switch {
	case last < 0 || ran >= b.Reset:
		return 0
	case last == 0:
		return min(b.Base, b.Max)
	}
	return min(2*last, b.Max)
}

// Phase is the end of a pod whose main containers will not run again: it
// succeeded when every one of them ended with exit code 0.
func Phase(containers []manifest.Container) manifest.Phase {
	for _, c := range containers {
		if c.State.Terminated == nil || c.State.Terminated.ExitCode != 0 {
			return manifest.PhaseFailed
		}
	}
	return manifest.PhaseSucceeded
}
