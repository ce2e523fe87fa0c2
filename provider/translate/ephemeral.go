package translate

import (
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// debugShell is what an ephemeral container runs that names no program. Its
// image would say; the runtime "host" reads none, and who adds one to look
// around wants a shell.
const debugShell = "/bin/sh"

// EphemeralOnly is the pod as if its ephemeral containers were all that it has,
// so that References names what they refer to.
func EphemeralOnly(pod *corev1.Pod) *corev1.Pod {
	out := *pod
	out.Spec.InitContainers, out.Spec.Volumes = nil, nil
	out.Spec.Containers = ephemeral(pod)
	return &out
}

// ephemeral gives the ephemeral containers as containers; their fields are the same.
func ephemeral(pod *corev1.Pod) []corev1.Container {
	out := make([]corev1.Container, len(pod.Spec.EphemeralContainers))
	for i := range pod.Spec.EphemeralContainers {
		out[i] = corev1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
	}
	return out
}

// Ephemeral translates the ephemeral containers that were added to a member
// which runs. One that cannot run here bears the reason and goes with the
// others; the error is a *Refusal that may pass, since an object is missing.
// in.Members is not read.
func Ephemeral(in Input, m Member) (manifest.Ephemeral, error) {
	out := manifest.Ephemeral{Version: manifest.Version}
	host := !runsImages((&gang{in: in}).pod(m).runtime())
	for i, c := range ephemeral(m.Pod) {
		at := fmt.Sprintf("spec.ephemeralContainers[%d]", i)
		g := &gang{in: in, notes: map[string]bool{}}
		p := g.pod(m)
		if len(c.Command) == 0 && len(c.Args) == 0 && host {
			c.Command = []string{debugShell}
		}
		c.SecurityContext = withoutPtrace(c.SecurityContext)
		p.checkContainer(at, &c, false)
		one := manifest.EphemeralContainer{
			Target: m.Pod.Spec.EphemeralContainers[i].TargetContainerName,
			Env:    append(p.givenEnv(), p.env(at, &c, p.shape())...),
		}
		if len(g.causes) > 0 {
			err := g.refusal()
			var refusal *Refusal
			if !errors.As(err, &refusal) || !refusal.Permanent {
				return manifest.Ephemeral{}, err
			}
			one.Refused, one.Env = refusal.Error(), nil
		}
		c.Env, c.EnvFrom = nil, nil
		one.Container = c
		out.Containers = append(out.Containers, one)
	}
	return out, nil
}

// withoutPtrace takes away the one capability that kubectl debug asks for by
// default: processes of one user may trace each other without it (ptrace(2)).
func withoutPtrace(s *corev1.SecurityContext) *corev1.SecurityContext {
	if s == nil || s.Capabilities == nil {
		return s
	}
	out := s.DeepCopy()
	out.Capabilities.Add = slices.DeleteFunc(out.Capabilities.Add, func(c corev1.Capability) bool { return c == "SYS_PTRACE" })
	return out
}

// EphemeralImages is what it takes to have the images of list, as Ephemeral gave
// it, where they are pulled before they are needed; there are none where the job's
// hosts pull, or the pod runs no images.
func EphemeralImages(in Input, m Member, list manifest.Ephemeral) manifest.Want {
	out := manifest.Want{Version: manifest.Version}
	p := (&gang{in: in, notes: map[string]bool{}}).pod(m)
	if in.Cluster.Spec.Images.Pull != pullLogin || !runsImages(p.runtime()) {
		return out
	}
	for _, c := range list.Containers {
		want := manifest.WantedImage{Image: c.Container.Image, Policy: c.Container.ImagePullPolicy}
		if c.Refused == "" && !slices.Contains(out.Images, want) {
			out.Images = append(out.Images, want)
		}
	}
	if len(out.Images) > 0 {
		out.Secrets = p.pullSecrets()
	}
	return out
}
