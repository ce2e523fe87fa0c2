package translate_test

import (
	"errors"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/translate"
)

func debugPod(cs ...corev1.EphemeralContainerCommon) *corev1.Pod {
	p := newPod(0)
	for _, c := range cs {
		p.Spec.EphemeralContainers = append(p.Spec.EphemeralContainers, corev1.EphemeralContainer{EphemeralContainerCommon: c, TargetContainerName: "main"})
	}
	return p
}

// What cannot run bears its reason and holds nothing up.
func TestEphemeral(t *testing.T) {
	pod := debugPod(
		corev1.EphemeralContainerCommon{Name: "shell", Image: "busybox", Stdin: true, TTY: true,
			SecurityContext: &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_PTRACE"}}}}, // kubectl's own
		corev1.EphemeralContainerCommon{Name: "tool", Command: []string{"ps"}, Env: []corev1.EnvVar{{Name: "A", Value: "b"}}},
		corev1.EphemeralContainerCommon{Name: "root", Command: []string{"ps"}, SecurityContext: &corev1.SecurityContext{Privileged: ptr(true)}},
	)
	in := input(pod)
	got, err := translate.Ephemeral(in, in.Members[0])
	if err != nil || len(got.Containers) != 3 {
		t.Fatalf("%+v, %v", got, err)
	}
	shell, tool, root := got.Containers[0], got.Containers[1], got.Containers[2]
	if strings.Join(shell.Container.Command, " ") != "/bin/sh" || !shell.Container.TTY || shell.Target != "main" || shell.Refused != "" {
		t.Errorf("shell: %+v", shell)
	}
	if len(tool.Env) != 1 || tool.Env[0].Name != "A" || tool.Container.Env != nil || tool.Refused != "" {
		t.Errorf("tool: %+v", tool)
	}
	if !strings.Contains(root.Refused, "spec.ephemeralContainers[2].securityContext.privileged") {
		t.Errorf("root: %+v", root)
	}
}

// A missing object may come.
func TestEphemeralWaits(t *testing.T) {
	pod := debugPod(corev1.EphemeralContainerCommon{Name: "a", Command: []string{"ps"}, EnvFrom: []corev1.EnvFromSource{
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "later"}}},
	}})
	if cms, _ := translate.References(translate.EphemeralOnly(pod), false); len(cms) != 1 || cms[0].Name != "later" {
		t.Errorf("references %v", cms)
	}
	in := input(pod)
	_, err := translate.Ephemeral(in, in.Members[0])
	var refusal *translate.Refusal
	if !errors.As(err, &refusal) || refusal.Permanent || !strings.Contains(err.Error(), "later") {
		t.Errorf("got %v", err)
	}
}

// A pod is submitted without them.
func TestEphemeralIsNoPartOfTheJob(t *testing.T) {
	out, err := translate.Gang(input(debugPod(corev1.EphemeralContainerCommon{Name: "shell"})))
	if err != nil || len(out.Pods[0].Pod.Spec.EphemeralContainers) != 0 {
		t.Errorf("%+v, %v", out.Pods, err)
	}
}
