package translate

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

const (
	// maxFileBytes bounds the contents of all volumes of a gang.
	maxFileBytes = 16 << 20
	// maxFiles bounds their number in one pod.
	maxFiles    = 10_000
	defaultMode = 0o644
)

// contents collects the files of one volume.
type contents struct {
	p     *pod
	at    string // field of the volume
	mode  int32  // default of the volume
	files map[string]File
	node  map[string]string // files that only the compute host can write
}

// volumes resolves all volumes of the pod.
func (p *pod) volumes(s shape) (map[string]manifest.Volume, map[string]map[string]File) {
	out, files := map[string]manifest.Volume{}, map[string]map[string]File{}
	count := 0
	for i, v := range p.Pod.Spec.Volumes {
		at := fmt.Sprintf("spec.volumes[%d]", i)
		if len(validation.IsDNS1123Label(v.Name)) > 0 {
			p.refuse(at+".name", v.Name, "is not a lower-case DNS label")
			continue
		}
		if _, twice := out[v.Name]; twice {
			p.refuse(at+".name", v.Name, "is the name of another volume")
			continue
		}
		if isTokenVolume(v) && !p.in.Account.ServiceAccountTokens {
			p.note("pods of this namespace get no service-account token on HPC nodes: the volume kube-api-access-* is left out; set automountServiceAccountToken: false to say so")
			continue
		}
		mv, c, ok := p.volume(at, v, s)
		if !ok {
			continue
		}
		if c != nil {
			c.checkTree()
			count += len(c.files) + len(c.node)
			mv.Modes = map[string]uint32{}
			for name, f := range c.files {
				if f.Mode != defaultMode {
					mv.Modes[name] = f.Mode
				}
			}
			if len(c.node) > 0 {
				mv.NodeFields = c.node
			}
			if len(mv.Modes) == 0 {
				mv.Modes = nil
			}
			files[v.Name] = c.files
		}
		out[v.Name] = mv
	}
	if count > maxFiles {
		p.refuse("spec.volumes", "", fmt.Sprintf("the volumes have %d files, more than %d", count, maxFiles))
	}
	return out, files
}

// volume resolves one volume; contents is nil for kinds without files of ours.
func (p *pod) volume(at string, v corev1.Volume, s shape) (manifest.Volume, *contents, bool) {
	c := &contents{p: p, at: at, mode: defaultMode, files: map[string]File{}, node: map[string]string{}}
	fromFiles := manifest.Volume{Kind: "files"}
	switch {
	case v.EmptyDir != nil:
		return p.emptyDir(at, v.EmptyDir)
	case v.HostPath != nil:
		return p.hostPath(at, v.HostPath)
	case v.ConfigMap != nil:
		c.setMode(at+".configMap.defaultMode", v.ConfigMap.DefaultMode)
		c.configMap(at+".configMap", v.ConfigMap.Name, v.ConfigMap.Items, v.ConfigMap.Optional)
		return fromFiles, c, true
	case v.Secret != nil:
		c.setMode(at+".secret.defaultMode", v.Secret.DefaultMode)
		c.secret(at+".secret", v.Secret.SecretName, v.Secret.Items, v.Secret.Optional)
		return fromFiles, c, true
	case v.DownwardAPI != nil:
		c.setMode(at+".downwardAPI.defaultMode", v.DownwardAPI.DefaultMode)
		c.downward(at+".downwardAPI", v.DownwardAPI.Items, s)
		return fromFiles, c, true
	case v.Projected != nil:
		c.setMode(at+".projected.defaultMode", v.Projected.DefaultMode)
		c.projected(at+".projected", v.Projected.Sources, s)
		return fromFiles, c, true
	case v.PersistentVolumeClaim != nil:
		return p.claim(at+".persistentVolumeClaim", v.PersistentVolumeClaim)
	case v.Ephemeral != nil:
		p.refuse(at+".ephemeral", "", "a claim that lives with its pod is not served on HPC nodes; use an emptyDir volume, or a PersistentVolumeClaim of a class in spec.volumeClasses")
	case v.NFS != nil:
		p.refuse(at+".nfs", v.NFS.Server+":"+v.NFS.Path, "jobs cannot mount file systems; use a PersistentVolumeClaim of a class that the administrator maps to a directory in spec.volumeClasses, or a hostPath volume"+p.allowedPaths())
	case v.Image != nil:
		p.refuse(at+".image", short(v.Image.Reference), "no image can be mounted as a volume on HPC nodes; put its files on another volume or into the image of the container")
	default:
		p.refuse(at, v.Name, "this kind of volume is not supported on HPC nodes; use configMap, secret, downwardAPI, projected, emptyDir, hostPath or persistentVolumeClaim")
	}
	return manifest.Volume{}, nil, false
}

func (p *pod) emptyDir(at string, e *corev1.EmptyDirVolumeSource) (manifest.Volume, *contents, bool) {
	out := manifest.Volume{Kind: "emptyDir"}
	switch e.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		out.Kind = "memory"
	default:
		p.refuse(at+".emptyDir.medium", string(e.Medium), "huge pages are not served on HPC nodes; use Memory or leave it out")
		return out, nil, false
	}
	if q := e.SizeLimit; q != nil {
		if q.Sign() < 0 {
			p.refuse(at+".emptyDir.sizeLimit", q.String(), "must not be negative")
			return out, nil, false
		}
		out.SizeBytes = q.Value()
	}
	return out, nil, true
}

// hostPath allows what lies below one of the cluster's prefixes. The runner
// checks that symbolic links on the host do not lead out of them.
func (p *pod) hostPath(at string, h *corev1.HostPathVolumeSource) (manifest.Volume, *contents, bool) {
	out := manifest.Volume{Kind: "hostPath", Path: path.Clean(h.Path), Beneath: slices.Clone(p.in.Cluster.Spec.HostPaths)}
	if h.Type != nil {
		out.Type = string(*h.Type)
	}
	switch {
	case !path.IsAbs(h.Path) || slices.Contains(strings.Split(h.Path, "/"), ".."):
		p.refuse(at+".hostPath.path", h.Path, "must be an absolute path without \"..\"")
		return out, nil, false
	case !hostPathTypes[corev1.HostPathType(out.Type)]:
		p.refuse(at+".hostPath.type", out.Type, "is not a type of hostPath volumes")
		return out, nil, false
	case !slices.ContainsFunc(p.in.Cluster.Spec.HostPaths, func(prefix string) bool { return below(out.Path, prefix) }):
		p.refuse(at+".hostPath.path", h.Path, "is not below a path that BatchCluster "+p.in.Cluster.Name+" allows"+p.allowedPaths())
		return out, nil, false
	}
	return out, nil, true
}

var hostPathTypes = map[corev1.HostPathType]bool{
	corev1.HostPathUnset: true, corev1.HostPathDirectory: true, corev1.HostPathDirectoryOrCreate: true, corev1.HostPathFile: true,
	corev1.HostPathFileOrCreate: true, corev1.HostPathSocket: true, corev1.HostPathCharDev: true, corev1.HostPathBlockDev: true,
}

func below(name, prefix string) bool {
	if !path.IsAbs(prefix) {
		return false
	}
	prefix = path.Clean(prefix)
	return prefix == "/" || name == prefix || strings.HasPrefix(name, prefix+"/")
}

func (p *pod) allowedPaths() string {
	if len(p.in.Cluster.Spec.HostPaths) == 0 {
		return "; the cluster's administrator allows paths in spec.hostPaths"
	}
	return " (" + strings.Join(p.in.Cluster.Spec.HostPaths, ", ") + ")"
}

func (c *contents) setMode(at string, mode *int32) {
	if mode != nil {
		c.mode = *mode
		c.checkMode(at, *mode)
	}
}

func (c *contents) checkMode(at string, mode int32) bool {
	if mode < 0 || mode > 0o777 {
		c.p.refuse(at, fmt.Sprintf("%#o", mode), "must be permission bits between 0 and 0777")
		return false
	}
	return true
}

// add puts one file in; a later one of the same path wins, as in a kubelet.
func (c *contents) add(at, name string, mode *int32, data []byte) {
	m := c.mode
	if mode != nil {
		m = *mode
		if !c.checkMode(at+".mode", m) {
			return
		}
	}
	if !cleanRelative(name) {
		c.p.refuse(at+".path", name, "must be a clean relative path without \"..\"")
		return
	}
	delete(c.node, name)
	c.files[name] = File{Data: data, Mode: uint32(m)}
}

// cleanRelative is the form of a path within a volume. Names that start with
// ".." are the runner's own.
func cleanRelative(name string) bool {
	if name == "" || len(name) > 1024 || path.IsAbs(name) || path.Clean(name) != name || strings.ContainsRune(name, 0) {
		return false
	}
	for _, e := range strings.Split(name, "/") {
		if strings.HasPrefix(e, "..") || e == "." || len(e) > 255 {
			return false
		}
	}
	return true
}

// checkTree refuses a path that is a file and a directory at once.
func (c *contents) checkTree() {
	all := map[string]bool{}
	for name := range c.files {
		all[name] = true
	}
	for name := range c.node {
		all[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
			if all[dir] {
				c.p.refuse(c.at, dir, "is a file and a directory in one volume")
				return
			}
		}
	}
}

func (c *contents) configMap(at, name string, items []corev1.KeyToPath, optional *bool) {
	cm := c.p.ConfigMaps[name]
	var data map[string][]byte
	if cm != nil {
		data = make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
		for k, v := range cm.Data {
			data[k] = []byte(v)
		}
		maps.Copy(data, cm.BinaryData)
	}
	c.keys(at, "configmap", name, data, cm != nil, items, optional)
}

func (c *contents) secret(at, name string, items []corev1.KeyToPath, optional *bool) {
	secret := c.p.Secrets[name]
	var data map[string][]byte
	if secret != nil {
		if c.p.longLived(at, secret) {
			return
		}
		data = secret.Data
	}
	c.keys(at, "secret", name, data, secret != nil, items, optional)
}

// keys puts all keys of an object in, or those that items name.
func (c *contents) keys(at, kind, name string, data map[string][]byte, there bool, items []corev1.KeyToPath, optional *bool) {
	if !there {
		if !yes(optional) {
			c.p.wait(ReasonMount, at, missing(kind, name, "", false))
		}
		return
	}
	if len(items) == 0 {
		for _, k := range slices.Sorted(maps.Keys(data)) {
			c.add(at, k, nil, data[k])
		}
		return
	}
	for i, item := range items {
		field := fmt.Sprintf("%s.items[%d]", at, i)
		v, ok := data[item.Key]
		if !ok {
			if !yes(optional) {
				c.p.wait(ReasonMount, field+".key", missing(kind, name, item.Key, true))
			}
			continue
		}
		c.add(field, item.Path, item.Mode, v)
	}
}

func (c *contents) downward(at string, items []corev1.DownwardAPIVolumeFile, s shape) {
	for i, item := range items {
		field := fmt.Sprintf("%s.items[%d]", at, i)
		switch {
		case item.FieldRef != nil && nodeField(item.FieldRef.FieldPath):
			c.add(field, item.Path, item.Mode, nil)
			if f, ok := c.files[item.Path]; ok {
				// The runner writes the file; an empty one keeps its place and mode.
				c.node[item.Path] = item.FieldRef.FieldPath
				c.files[item.Path] = f
			}
		case item.FieldRef != nil:
			text, err := c.p.field(item.FieldRef.FieldPath)
			if err != nil {
				c.p.refuse(field+".fieldRef.fieldPath", item.FieldRef.FieldPath, err.Error())
				continue
			}
			c.add(field, item.Path, item.Mode, []byte(text))
		case item.ResourceFieldRef != nil:
			text, err := c.p.resourceField(item.ResourceFieldRef, nil, s)
			if err != nil {
				c.p.refuse(field+".resourceFieldRef", item.ResourceFieldRef.Resource, err.Error())
				continue
			}
			c.add(field, item.Path, item.Mode, []byte(text))
		default:
			c.p.refuse(field, item.Path, "names neither a field nor a resource")
		}
	}
}

func (c *contents) projected(at string, sources []corev1.VolumeProjection, s shape) {
	for i, src := range sources {
		field := fmt.Sprintf("%s.sources[%d]", at, i)
		switch {
		case src.ConfigMap != nil:
			c.configMap(field+".configMap", src.ConfigMap.Name, src.ConfigMap.Items, src.ConfigMap.Optional)
		case src.Secret != nil:
			c.secret(field+".secret", src.Secret.Name, src.Secret.Items, src.Secret.Optional)
		case src.DownwardAPI != nil:
			c.downward(field+".downwardAPI", src.DownwardAPI.Items, s)
		case src.ServiceAccountToken != nil:
			c.token(field+".serviceAccountToken", src.ServiceAccountToken)
		case src.ClusterTrustBundle != nil:
			c.p.refuse(field+".clusterTrustBundle", "", "trust bundles are not delivered to HPC nodes; copy the certificates to a ConfigMap")
		case src.PodCertificate != nil:
			c.p.refuse(field+".podCertificate", "", "certificates of pods are not delivered to HPC nodes; use a Secret")
		default:
			c.p.refuse(field, "", "this source is not supported on HPC nodes; use configMap, secret, downwardAPI or serviceAccountToken")
		}
	}
}
