package translate

import (
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// lastApplied is a copy of the object as it was applied, with its literal
// values; nobody on the compute host needs it.
const lastApplied = "kubectl.kubernetes.io/last-applied-configuration"

// manifest makes the runner's view of the pod, but for its rank. s is what the
// pod asked for.
func (p *pod) manifest(s shape) (manifest.Pod, map[string]map[string]File) {
	out := manifest.Pod{
		Version: manifest.Version, Runtime: string(p.runtime()), Images: p.images(),
		GraceSeconds: p.graceSeconds(p.Member), Env: map[string][]manifest.EnvVar{},
	}
	list := func(at string, containers []corev1.Container) {
		for i := range containers {
			if env := append(p.givenEnv(), p.env(fmt.Sprintf("%s[%d]", at, i), &containers[i], s)...); len(env) > 0 {
				out.Env[containers[i].Name] = env
			}
		}
	}
	list("spec.initContainers", p.Pod.Spec.InitContainers)
	list("spec.containers", p.Pod.Spec.Containers)
	var files map[string]map[string]File
	out.Volumes, files = p.volumes(s)
	out.Contents = p.contents(out.Volumes, files)
	out.Pod = p.stripped(out.Volumes)
	return out, files
}

// stripped copies what the runner needs of the object.
func (p *pod) stripped(volumes map[string]manifest.Volume) corev1.Pod {
	in := p.Pod.DeepCopy()
	out := corev1.Pod{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"},
		ObjectMeta: metav1.ObjectMeta{
			Name: in.Name, Namespace: in.Namespace, UID: in.UID, Generation: in.Generation,
			CreationTimestamp: in.CreationTimestamp, Labels: in.Labels, Annotations: maps.Clone(in.Annotations),
		},
		Spec: in.Spec,
	}
	delete(out.Annotations, lastApplied)
	out.Spec.Affinity, out.Spec.Tolerations, out.Spec.TopologySpreadConstraints = nil, nil, nil
	out.Spec.ImagePullSecrets = nil
	out.Spec.EphemeralContainers = nil // they are handed over once the pod runs
	out.Spec.Volumes = slices.DeleteFunc(out.Spec.Volumes, func(v corev1.Volume) bool { _, kept := volumes[v.Name]; return !kept })
	for _, list := range [][]corev1.Container{out.Spec.InitContainers, out.Spec.Containers} {
		for i := range list {
			list[i].Env, list[i].EnvFrom = nil, nil
			list[i].VolumeMounts = slices.DeleteFunc(list[i].VolumeMounts, func(m corev1.VolumeMount) bool {
				_, kept := volumes[m.Name]
				return !kept
			})
		}
	}
	return out
}
