package pod

import (
	"fmt"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// refuse looks for what this runner cannot give. A pod that asks for it must
// fail with the field's name, never run without.
func refuse(p *manifest.Pod, runtimes map[string]Runtime) error {
	if p.Version != manifest.Version {
		return fmt.Errorf("pod.json has version %d, this runner knows %d", p.Version, manifest.Version)
	}
	how := runtimes[p.Runtime]
	if how == nil {
		return fmt.Errorf("runtime %q is not supported by this runner", p.Runtime)
	}
	if len(p.Pod.Spec.Containers) == 0 {
		return fmt.Errorf("spec.containers: there is none")
	}
	names := map[string]bool{}
	for kind, list := range map[string][]corev1.Container{"initContainers": p.Pod.Spec.InitContainers, "containers": p.Pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			at := fmt.Sprintf("spec.%s[%d]", kind, i)
			if !isLabel(c.Name) || names[c.Name] {
				return fmt.Errorf("%s.name: %q is not a name or not the only one", at, c.Name)
			}
			names[c.Name] = true
			if err := refuseContainer(c, how.Image()); err != nil {
				return fmt.Errorf("%s.%w", at, err)
			}
		}
	}
	return nil
}

func refuseContainer(c *corev1.Container, image bool) error {
	if len(c.Command) == 0 && !image {
		return fmt.Errorf("command: it is required, since runtime \"host\" uses no image: an entrypoint of image %q needs an image runtime", c.Image)
	}
	if image && c.Image == "" {
		return fmt.Errorf("image: it is required by this runtime")
	}
	if len(c.VolumeDevices) > 0 {
		return fmt.Errorf("volumeDevices: block devices are not supported")
	}
	for i, m := range c.VolumeMounts {
		if m.MountPropagation != nil && *m.MountPropagation == corev1.MountPropagationBidirectional {
			return fmt.Errorf("volumeMounts[%d].mountPropagation: Bidirectional is not supported", i)
		}
		if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly == corev1.RecursiveReadOnlyEnabled {
			return fmt.Errorf("volumeMounts[%d].recursiveReadOnly: Enabled is not supported", i)
		}
	}
	for i, r := range c.RestartPolicyRules {
		if r.Action != corev1.ContainerRestartRuleActionRestart {
			return fmt.Errorf("restartPolicyRules[%d].action: %q is not supported", i, r.Action)
		}
	}
	for name, p := range map[string]*corev1.Probe{"startupProbe": c.StartupProbe, "livenessProbe": c.LivenessProbe, "readinessProbe": c.ReadinessProbe} {
		if p == nil {
			continue
		}
		if (p.Exec == nil || len(p.Exec.Command) == 0) && p.HTTPGet == nil && p.TCPSocket == nil && p.GRPC == nil {
			return fmt.Errorf("%s: it has no handler that is supported (exec, httpGet, tcpSocket, grpc)", name)
		}
	}
	if c.Lifecycle == nil {
		return nil
	}
	for name, h := range map[string]*corev1.LifecycleHandler{"postStart": c.Lifecycle.PostStart, "preStop": c.Lifecycle.PreStop} {
		if h != nil && (h.Exec == nil || len(h.Exec.Command) == 0) && h.HTTPGet == nil && h.Sleep == nil && h.TCPSocket == nil {
			return fmt.Errorf("lifecycle.%s: it has no handler that is supported (exec, httpGet, tcpSocket, sleep)", name)
		}
	}
	if s := c.Lifecycle.StopSignal; s != nil && unix.SignalNum(string(*s)) == 0 {
		return fmt.Errorf("lifecycle.stopSignal: signal %q is not known here", *s)
	}
	return nil
}

// isLabel reports whether s is a DNS label, which makes it a safe file name.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		if b := s[i]; b != '-' && (b < '0' || b > '9') && (b < 'a' || b > 'z') {
			return false
		}
	}
	return true
}
