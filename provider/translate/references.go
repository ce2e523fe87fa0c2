package translate

import (
	"cmp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// tokenVolumePrefix starts the name of the volume that the API server adds to
// every pod for its service account.
const tokenVolumePrefix = "kube-api-access-"

// References lists the ConfigMaps and Secrets that the pod's environment and
// volumes name and those with which its images are pulled, each once, ordered by name. An object is optional when every
// use of it is. The automatic service-account volume counts only with tokens:
// without them it is not delivered.
func References(pod *corev1.Pod, tokens bool) (configMaps, secrets []Ref) {
	cms, secs := refs{}, refs{}
	volumeReferences(pod, tokens, cms, secs)
	for _, s := range pod.Spec.ImagePullSecrets {
		optional := true // a kubelet pulls without those that are missing
		secs.add(s.Name, &optional)
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, from := range list[i].EnvFrom {
				if r := from.ConfigMapRef; r != nil {
					cms.add(r.Name, r.Optional)
				}
				if r := from.SecretRef; r != nil {
					secs.add(r.Name, r.Optional)
				}
			}
			for _, e := range list[i].Env {
				if e.ValueFrom == nil {
					continue
				}
				if r := e.ValueFrom.ConfigMapKeyRef; r != nil {
					cms.add(r.Name, r.Optional)
				}
				if r := e.ValueFrom.SecretKeyRef; r != nil {
					secs.add(r.Name, r.Optional)
				}
			}
		}
	}
	return cms.list(), secs.list()
}

// VolumeReferences is References for the volumes alone.
func VolumeReferences(pod *corev1.Pod, tokens bool) (configMaps, secrets []Ref) {
	cms, secs := refs{}, refs{}
	volumeReferences(pod, tokens, cms, secs)
	return cms.list(), secs.list()
}

func volumeReferences(pod *corev1.Pod, tokens bool, cms, secs refs) {
	for _, v := range pod.Spec.Volumes {
		if isTokenVolume(v) && !tokens {
			continue
		}
		if v.ConfigMap != nil {
			cms.add(v.ConfigMap.Name, v.ConfigMap.Optional)
		}
		if v.Secret != nil {
			secs.add(v.Secret.SecretName, v.Secret.Optional)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ConfigMap != nil {
				cms.add(s.ConfigMap.Name, s.ConfigMap.Optional)
			}
			if s.Secret != nil {
				secs.add(s.Secret.Name, s.Secret.Optional)
			}
		}
	}
}

// Claims lists the PersistentVolumeClaims that the pod's volumes name, by name.
func Claims(pod *corev1.Pod) []Ref {
	claims := refs{}
	for _, v := range pod.Spec.Volumes {
		if c := v.PersistentVolumeClaim; c != nil {
			claims.add(c.ClaimName, nil)
		}
	}
	return claims.list()
}

// Tokens lists the service-account tokens that the pod's volumes ask for, each
// once, in a fixed order.
func Tokens(pod *corev1.Pod) []TokenRequest {
	var out []TokenRequest
	for _, v := range pod.Spec.Volumes {
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ServiceAccountToken == nil {
				continue
			}
			if r := tokenRequest(s.ServiceAccountToken); !slices.Contains(out, r) {
				out = append(out, r)
			}
		}
	}
	slices.SortFunc(out, func(a, b TokenRequest) int {
		return cmp.Or(cmp.Compare(a.Audience, b.Audience), cmp.Compare(a.Seconds, b.Seconds))
	})
	return out
}

func tokenRequest(s *corev1.ServiceAccountTokenProjection) TokenRequest {
	r := TokenRequest{Audience: s.Audience, Seconds: MaxTokenSeconds}
	if s.ExpirationSeconds != nil {
		r.Seconds = min(max(*s.ExpirationSeconds, MinTokenSeconds), MaxTokenSeconds)
	}
	return r
}

// isTokenVolume recognises the automatic service-account volume.
func isTokenVolume(v corev1.Volume) bool {
	if !strings.HasPrefix(v.Name, tokenVolumePrefix) || v.Projected == nil {
		return false
	}
	return slices.ContainsFunc(v.Projected.Sources, func(s corev1.VolumeProjection) bool { return s.ServiceAccountToken != nil })
}

// refs maps a name to whether all its uses are optional.
type refs map[string]bool

func (r refs) add(name string, optional *bool) {
	if name == "" {
		return
	}
	before, seen := r[name]
	r[name] = yes(optional) && (before || !seen)
}

func (r refs) list() []Ref {
	var out []Ref
	for name, optional := range r {
		out = append(out, Ref{Name: name, Optional: optional})
	}
	slices.SortFunc(out, func(a, b Ref) int { return cmp.Compare(a.Name, b.Name) })
	return out
}
