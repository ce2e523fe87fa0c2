package translate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"maps"
	"net"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// tokenMode is the mode of every token: the job's user alone reads it.
const tokenMode = 0o600

// HasContents reports whether the pod has a volume whose contents come from the
// API: they are kept up to date while the pod lives.
func HasContents(pod *corev1.Pod) bool { return slices.ContainsFunc(pod.Spec.Volumes, hasContents) }

func hasContents(v corev1.Volume) bool {
	return v.ConfigMap != nil || v.Secret != nil || v.DownwardAPI != nil || v.Projected != nil
}

// ContentsOnly is the pod with those volumes alone. It shares what it does not
// change.
func ContentsOnly(pod *corev1.Pod) *corev1.Pod {
	out := *pod
	out.Spec.Volumes = nil
	for _, v := range pod.Spec.Volumes {
		if hasContents(v) {
			out.Spec.Volumes = append(out.Spec.Volumes, v)
		}
	}
	return &out
}

// Contents translates the volumes of one member anew, for a pod that lives: what
// its volumes of kind "files" hold by now. The error is a *Refusal; then what
// the pod has stays. in.Members is not read.
func Contents(in Input, m Member) (Refresh, error) {
	g := &gang{in: in, notes: map[string]bool{}}
	p := g.pod(m)
	volumes, files := p.volumes(p.shape())
	if size(files) > maxFileBytes {
		p.refuse("spec.volumes", "", "the files of the volumes have become too large")
	}
	if len(g.causes) > 0 {
		return Refresh{}, g.refusal()
	}
	out := Refresh{Files: files, Update: manifest.Update{
		Version: manifest.Version, Contents: p.contents(volumes, files), Volumes: map[string]manifest.Volume{},
	}}
	for name := range files {
		out.Update.Volumes[name] = volumes[name]
	}
	return out, nil
}

// contents identifies what the volumes hold.
func (p *pod) contents(volumes map[string]manifest.Volume, files map[string]map[string]File) manifest.Contents {
	if len(files) == 0 {
		return manifest.Contents{}
	}
	h := sha256.New()
	write := func(text []byte) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(text)))
		h.Write(n[:])
		h.Write(text)
	}
	token := false
	for _, volume := range slices.Sorted(maps.Keys(files)) {
		write([]byte("volume " + volume))
		for _, name := range slices.Sorted(maps.Keys(files[volume])) {
			f := files[volume][name]
			write([]byte(name))
			write(binary.BigEndian.AppendUint32(nil, f.Mode))
			if f.Token {
				token = true
				continue
			}
			write(f.Data)
		}
		for _, name := range slices.Sorted(maps.Keys(volumes[volume].NodeFields)) {
			write([]byte(name + " " + volumes[volume].NodeFields[name]))
		}
	}
	out := manifest.Contents{Digest: hex.EncodeToString(h.Sum(nil))}
	if token {
		out.RenewAt = p.RenewAt
	}
	return out
}

// token puts a service-account token in.
func (c *contents) token(at string, src *corev1.ServiceAccountTokenProjection) {
	if !c.p.in.Account.ServiceAccountTokens {
		c.p.refuse(at, "", "service-account tokens are not delivered to HPC nodes from this namespace; remove the source, or ask the administrator for serviceAccountTokens: true in its entry of spec.accounts")
		return
	}
	text, ok := c.p.Tokens[tokenRequest(src)]
	if !ok {
		c.p.wait(ReasonMount, at, "the token has not been issued")
		return
	}
	mode := int32(tokenMode)
	c.add(at, src.Path, &mode, []byte(text))
	if f, ok := c.files[src.Path]; ok {
		f.Token = true
		c.files[src.Path] = f
	}
}

// apiServerEnv tells a pod that carries a token where the API server is. Other
// service variables are left out: the addresses of Services are not reachable
// from compute hosts.
func (p *pod) apiServerEnv() []manifest.EnvVar {
	if p.in.APIServer == "" || !p.in.Account.ServiceAccountTokens || len(Tokens(p.Pod)) == 0 {
		return nil
	}
	host, port, err := net.SplitHostPort(p.in.APIServer)
	if err != nil {
		return nil
	}
	return []manifest.EnvVar{
		{Name: "KUBERNETES_SERVICE_HOST", Value: []byte(host)},
		{Name: "KUBERNETES_SERVICE_PORT", Value: []byte(port)},
		{Name: "KUBERNETES_SERVICE_PORT_HTTPS", Value: []byte(port)},
	}
}
