package translate

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image/reference"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// runsImages reports whether a runtime runs images.
func runsImages(r hpcv1alpha1.Runtime) bool { return r != hpcv1alpha1.RuntimeHost }

// runtime is what the pod runs with: what its annotation asks for, else the first
// that the cluster allows and that can run it. A container without a command
// needs its image to say what to run.
func (p *pod) runtime() hpcv1alpha1.Runtime {
	if asked, has := p.Pod.Annotations[wellknown.Runtime]; has {
		return hpcv1alpha1.Runtime(asked)
	}
	allowed := runtimes(p.in.Cluster)
	needsImage := slices.ContainsFunc(p.all(), func(c corev1.Container) bool { return len(c.Command) == 0 })
	if i := slices.IndexFunc(allowed, runsImages); needsImage && i >= 0 {
		return allowed[i]
	}
	return allowed[0]
}

func (p *pod) all() []corev1.Container {
	return slices.Concat(p.Pod.Spec.InitContainers, p.Pod.Spec.Containers)
}

// checkRuntime refuses what the chosen runtime cannot give and others could.
func (p *pod) checkRuntime() {
	allowed, chosen := runtimes(p.in.Cluster), p.runtime()
	if !slices.Contains(allowed, chosen) {
		p.refuse("metadata.annotations["+wellknown.Runtime+"]", string(chosen), fmt.Sprintf("BatchCluster %s allows the runtimes %v", p.in.Cluster.Name, allowed))
		return
	}
	if !runsImages(chosen) {
		return
	}
	share := p.Pod.Spec.ShareProcessNamespace
	ownProcesses := chosen == hpcv1alpha1.RuntimePodman || chosen == hpcv1alpha1.RuntimeApptainer
	if ownProcesses && share != nil && *share {
		p.refuse("spec.shareProcessNamespace", "true", "containers of the runtime "+string(chosen)+" see their own processes only; remove it, or set hostPID, or use the runtime host or charliecloud")
	}
	if chosen != hpcv1alpha1.RuntimePodman {
		return
	}
	const seen = "the runtime podman shows the job's user as root in the container; remove it, or use another runtime"
	if s := p.Pod.Spec.SecurityContext; s != nil && yes(s.RunAsNonRoot) {
		p.refuse("spec.securityContext.runAsNonRoot", "true", seen)
	}
	for i, c := range p.Pod.Spec.InitContainers {
		if s := c.SecurityContext; s != nil && yes(s.RunAsNonRoot) {
			p.refuse(fmt.Sprintf("spec.initContainers[%d].securityContext.runAsNonRoot", i), "true", seen)
		}
	}
	for i, c := range p.Pod.Spec.Containers {
		if s := c.SecurityContext; s != nil && yes(s.RunAsNonRoot) {
			p.refuse(fmt.Sprintf("spec.containers[%d].securityContext.runAsNonRoot", i), "true", seen)
		}
	}
}

// checkImage checks what says which program runs.
func (p *pod) checkImage(at string, c *corev1.Container) {
	if len(c.Command) > 0 && c.Command[0] == "" {
		p.refuse(at+".command[0]", "", "the program is empty")
	}
	if !runsImages(p.runtime()) {
		if len(c.Command) == 0 {
			p.refuse(at+".command", "", "the runtime \"host\" runs bare processes and does not read the image, so it does not know the image's entrypoint; "+
				"write the program to run as command"+p.otherRuntimes())
		}
		return
	}
	ref, err := reference.Parse(c.Image)
	switch {
	case err != nil:
		p.gang.refuse(&Refusal{Pod: p.name, UID: string(p.Pod.UID), Field: at + ".image", Value: short(c.Image), Message: err.Error(),
			Permanent: true, Reason: ReasonImageName})
	case ref.Transport != "" && !ref.Within(p.in.Cluster.Spec.Images.Archives):
		p.refuse(at+".image", c.Image, fmt.Sprintf("BatchCluster %s allows image archives beneath %v only", p.in.Cluster.Name, p.in.Cluster.Spec.Images.Archives))
	}
}

func (p *pod) otherRuntimes() string {
	if i := slices.IndexFunc(runtimes(p.in.Cluster), runsImages); i >= 0 {
		return ", or choose \"" + string(runtimes(p.in.Cluster)[i]) + "\" with the annotation " + wellknown.Runtime
	}
	return ""
}

// images is what the runner needs to get the pod's images.
func (p *pod) images() *manifest.Images {
	if !runsImages(p.runtime()) {
		return nil
	}
	in := &p.in.Cluster.Spec.Images
	out := &manifest.Images{CAFile: in.CAFile, Insecure: slices.Clone(in.Insecure), Archives: slices.Clone(in.Archives)}
	for _, m := range in.Mirrors {
		out.Mirrors = append(out.Mirrors, manifest.ImageMirror{Registry: m.Registry, Endpoint: m.Endpoint})
	}
	out.Directory = ImageStore(in, p.in.Account.User)
	return out
}

// ImageStore is a user's image store, "" for the one in his staging directory.
func ImageStore(in *hpcv1alpha1.Images, user string) string {
	if in.Directory == "" {
		return ""
	}
	if !strings.Contains(in.Directory, "{user}") {
		return path.Join(in.Directory, user) // a store is one user's
	}
	return path.Clean(strings.ReplaceAll(in.Directory, "{user}", user))
}

// RunsImages reports whether pods of the cluster may run images.
func RunsImages(c *hpcv1alpha1.BatchCluster) bool {
	return slices.ContainsFunc(runtimes(c), runsImages)
}

// pullLogin is the value of spec.images.pull that has images pulled where the batch
// system's commands run.
const pullLogin = "login"

// PullFirst reports whether the gang's images are there before its job is
// submitted, since compute hosts may not reach a registry.
func PullFirst(c *hpcv1alpha1.BatchCluster, out *Output) bool {
	return c.Spec.Images.Pull == pullLogin && slices.ContainsFunc(out.Pods, func(p manifest.Pod) bool { return p.Images != nil })
}

// pullSecrets are the pod's pull secrets as .dockerconfigjson documents. A
// missing one is as if it were not named, as with a kubelet.
func (p *pod) pullSecrets() [][]byte {
	if !runsImages(p.runtime()) {
		return nil
	}
	var out [][]byte
	for i, ref := range p.Pod.Spec.ImagePullSecrets {
		s := p.Secrets[ref.Name]
		at := fmt.Sprintf("spec.imagePullSecrets[%d]", i)
		switch {
		case s == nil:
			p.note("%s: secret %q not found; images are pulled without it", at, ref.Name)
		case len(s.Data[corev1.DockerConfigJsonKey]) > 0:
			out = append(out, s.Data[corev1.DockerConfigJsonKey])
		case len(s.Data[corev1.DockerConfigKey]) > 0:
			doc, err := json.Marshal(map[string]json.RawMessage{"auths": s.Data[corev1.DockerConfigKey]})
			if err != nil {
				p.note("%s: secret %q holds no JSON; images are pulled without it", at, ref.Name)
				continue
			}
			out = append(out, doc)
		default:
			p.note("%s: secret %q has no key %s; images are pulled without it", at, ref.Name, corev1.DockerConfigJsonKey)
		}
	}
	return out
}
