package restart

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

func TestAgain(t *testing.T) {
	always, never := corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever
	rule := func(op corev1.ContainerRestartRuleOnExitCodesOperator, codes ...int32) []corev1.ContainerRestartRule {
		return []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart,
			ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: op, Values: codes}}}
	}
	for name, tc := range map[string]struct {
		pod  corev1.RestartPolicy
		c    corev1.Container
		init bool
		code int32
		want bool
	}{
		"never, failed":              {pod: corev1.RestartPolicyNever, code: 1},
		"never, done":                {pod: corev1.RestartPolicyNever},
		"on failure, failed":         {pod: corev1.RestartPolicyOnFailure, code: 7, want: true},
		"on failure, done":           {pod: corev1.RestartPolicyOnFailure},
		"always, done":               {pod: corev1.RestartPolicyAlways, want: true},
		"default is always":          {want: true},
		"init of always, done":       {pod: corev1.RestartPolicyAlways, init: true},
		"init of always, failed":     {pod: corev1.RestartPolicyAlways, init: true, code: 1, want: true},
		"init of never, failed":      {pod: corev1.RestartPolicyNever, init: true, code: 1},
		"sidecar of never":           {pod: corev1.RestartPolicyNever, c: corev1.Container{RestartPolicy: &always}, want: true},
		"container never wins":       {pod: corev1.RestartPolicyAlways, c: corev1.Container{RestartPolicy: &never}, code: 1},
		"rule restarts":              {pod: corev1.RestartPolicyNever, c: corev1.Container{RestartPolicy: &never, RestartPolicyRules: rule("In", 42)}, code: 42, want: true},
		"rule does not match":        {pod: corev1.RestartPolicyNever, c: corev1.Container{RestartPolicy: &never, RestartPolicyRules: rule("In", 42)}, code: 41},
		"rule not in":                {pod: corev1.RestartPolicyNever, c: corev1.Container{RestartPolicy: &never, RestartPolicyRules: rule("NotIn", 42)}, code: 41, want: true},
		"rules need a policy beside": {pod: corev1.RestartPolicyNever, c: corev1.Container{RestartPolicyRules: rule("In", 42)}, code: 42},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Again(tc.pod, &tc.c, tc.init, tc.code); got != tc.want {
				t.Errorf("Again = %v, want %v", got, tc.want)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	b := Kubelet()
	last := NeverEnded
	for i, want := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
		last = b.Next(last, time.Second)
		if last != want*time.Second {
			t.Fatalf("wait %d = %v, want %v s", i, last, want)
		}
	}
	if got := b.Next(last, 10*time.Minute); got != 0 {
		t.Errorf("wait after a long run = %v, want none", got)
	}
}

func TestPhase(t *testing.T) {
	ended := func(code int32) manifest.Container {
		return manifest.Container{State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: code}}}
	}
	for name, tc := range map[string]struct {
		in   []manifest.Container
		want manifest.Phase
	}{
		"all done":   {[]manifest.Container{ended(0), ended(0)}, manifest.PhaseSucceeded},
		"one failed": {[]manifest.Container{ended(0), ended(3)}, manifest.PhaseFailed},
		"never ran":  {[]manifest.Container{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}}, manifest.PhaseFailed},
	} {
		t.Run(name, func(t *testing.T) {
			if got := Phase(tc.in); got != tc.want {
				t.Errorf("Phase = %s, want %s", got, tc.want)
			}
		})
	}
}
