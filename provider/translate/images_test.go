package translate_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// imageInput is a pod without command on a cluster with all runtimes.
func imageInput(change func(*corev1.Pod, *hpcv1alpha1.BatchCluster)) translate.Input {
	p := newPod(0)
	p.Spec.Containers[0].Command = nil
	in := input(p)
	in.Cluster.Spec.Runtimes = []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost, hpcv1alpha1.RuntimeCharliecloud, hpcv1alpha1.RuntimePodman, hpcv1alpha1.RuntimeApptainer}
	in.Cluster.Spec.Images = hpcv1alpha1.Images{Archives: []string{"/data"}, Insecure: []string{"reg:5000"}, Directory: "/images", CAFile: "/ca.pem",
		Mirrors: []hpcv1alpha1.ImageMirror{{Registry: "docker.io", Endpoint: "mirror:5000/hub"}}}
	change(p, in.Cluster)
	return in
}

func TestRuntimeIsChosen(t *testing.T) {
	for name, tc := range map[string]struct {
		change func(*corev1.Pod, *hpcv1alpha1.BatchCluster)
		want   string
	}{
		"no command goes to the first image runtime": {func(*corev1.Pod, *hpcv1alpha1.BatchCluster) {}, "charliecloud"},
		"a command goes to the first":                {func(p *corev1.Pod, _ *hpcv1alpha1.BatchCluster) { p.Spec.Containers[0].Command = []string{"x"} }, "host"},
		"one container without is enough": {func(p *corev1.Pod, _ *hpcv1alpha1.BatchCluster) {
			p.Spec.Containers[0].Command = []string{"x"}
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "busybox"}}
		}, "charliecloud"},
		"annotation": {func(p *corev1.Pod, _ *hpcv1alpha1.BatchCluster) { p.Annotations[wellknown.Runtime] = "podman" }, "podman"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := translate.Gang(imageInput(tc.change))
			if err != nil {
				t.Fatal(err)
			}
			p := out.Pods[0]
			if p.Runtime != tc.want || (p.Images != nil) != (tc.want != "host") {
				t.Errorf("runtime %s, images %+v", p.Runtime, p.Images)
			}
			if i := p.Images; i != nil && (i.Directory != "/images/alice" || i.CAFile != "/ca.pem" || len(i.Mirrors) != 1 || !slices.Equal(i.Archives, []string{"/data"}) || !slices.Equal(i.Insecure, []string{"reg:5000"})) {
				t.Errorf("images %+v", i)
			}
		})
	}
}

func TestImageRefusals(t *testing.T) {
	yes := true
	podman := func(f func(*corev1.Pod)) func(*corev1.Pod, *hpcv1alpha1.BatchCluster) {
		return func(p *corev1.Pod, _ *hpcv1alpha1.BatchCluster) {
			p.Annotations[wellknown.Runtime] = "podman"
			f(p)
		}
	}
	for field, change := range map[string]func(*corev1.Pod, *hpcv1alpha1.BatchCluster){
		"metadata.annotations[isthmus.sh/runtime]": func(p *corev1.Pod, _ *hpcv1alpha1.BatchCluster) { p.Annotations[wellknown.Runtime] = "enroot" },
		"spec.containers[0].image":                 func(p *corev1.Pod, _ *hpcv1alpha1.BatchCluster) { p.Spec.Containers[0].Image = "NOT an image" },
		"spec.containers[0].command": func(p *corev1.Pod, c *hpcv1alpha1.BatchCluster) {
			c.Spec.Runtimes = []hpcv1alpha1.Runtime{hpcv1alpha1.RuntimeHost}
		},
		"spec.shareProcessNamespace":                      podman(func(p *corev1.Pod) { p.Spec.ShareProcessNamespace = &yes }),
		"spec.securityContext.runAsNonRoot":               podman(func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: &yes} }),
		"spec.containers[0].securityContext.runAsNonRoot": podman(func(p *corev1.Pod) { main(p).SecurityContext = &corev1.SecurityContext{RunAsNonRoot: &yes} }),
		"spec.containers[0].securityContext.runAsUser":    podman(func(p *corev1.Pod) { main(p).SecurityContext = &corev1.SecurityContext{RunAsUser: ptr(int64(1001))} }),
		"spec.containers[0].securityContext.privileged":   podman(func(p *corev1.Pod) { main(p).SecurityContext = &corev1.SecurityContext{Privileged: &yes} }),
		"spec.containers[0].securityContext.capabilities.add": podman(func(p *corev1.Pod) {
			main(p).SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_ADMIN"}}}
		}),
	} {
		t.Run(field, func(t *testing.T) {
			_, err := translate.Gang(imageInput(change))
			wantRefusal(t, err, field, true)
		})
	}
	for image, ok := range map[string]bool{"docker-archive:/data/a.tar": true, "oci:/data": true, "docker-archive:/database/a.tar": false, "docker-archive:/etc/a.tar": false, "oci:/data/../etc": false} {
		_, err := translate.Gang(imageInput(func(p *corev1.Pod, _ *hpcv1alpha1.BatchCluster) { p.Spec.Containers[0].Image = image }))
		if (err == nil) != ok {
			t.Errorf("%s: %v", image, err)
		}
	}
}

// No process of an image runtime is root on the hosts, and with all but podman it
// sees itself as what it is: runAsNonRoot is kept whatever USER the image names.
func TestImageUser(t *testing.T) {
	yes, own := true, int64(1001)
	for name, tc := range map[string]struct {
		runtime string
		pod     *corev1.PodSecurityContext
		main    *corev1.SecurityContext
		field   string // that is refused
	}{
		"non-root":            {"charliecloud", &corev1.PodSecurityContext{RunAsNonRoot: &yes}, &corev1.SecurityContext{RunAsNonRoot: &yes}, ""},
		"non-root, apptainer": {"apptainer", &corev1.PodSecurityContext{RunAsNonRoot: &yes}, nil, ""},
		"the account":         {"charliecloud", &corev1.PodSecurityContext{RunAsUser: &own}, &corev1.SecurityContext{RunAsUser: &own, RunAsNonRoot: &yes}, ""},
		"another":             {"charliecloud", nil, &corev1.SecurityContext{RunAsUser: ptr(int64(4242))}, "spec.containers[0].securityContext.runAsUser"},
		"root":                {"charliecloud", &corev1.PodSecurityContext{RunAsUser: ptr(int64(0))}, nil, "spec.securityContext.runAsUser"},
		"root, podman":        {"podman", nil, &corev1.SecurityContext{RunAsUser: ptr(int64(0))}, ""},
		"non-root, podman":    {"podman", nil, &corev1.SecurityContext{RunAsNonRoot: &yes}, "spec.containers[0].securityContext.runAsNonRoot"},
	} {
		t.Run(name, func(t *testing.T) {
			in := imageInput(func(p *corev1.Pod, _ *hpcv1alpha1.BatchCluster) {
				p.Annotations[wellknown.Runtime] = tc.runtime
				p.Spec.SecurityContext, p.Spec.Containers[0].SecurityContext = tc.pod, tc.main
			})
			in.UID, in.GID = own, 1001
			_, err := translate.Gang(in)
			if tc.field != "" {
				wantRefusal(t, err, tc.field, true)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// Images come first where the cluster says so and there are any.
func TestPullFirst(t *testing.T) {
	for name, tc := range map[string]struct {
		pull, runtime string
		want          bool
	}{
		"by the job":    {"job", "charliecloud", false},
		"on the login":  {"login", "charliecloud", true},
		"no image runs": {"login", "host", false},
	} {
		in := imageInput(func(p *corev1.Pod, c *hpcv1alpha1.BatchCluster) {
			c.Spec.Images.Pull, p.Annotations[wellknown.Runtime] = tc.pull, tc.runtime
			p.Spec.Containers[0].Command = []string{"/bin/true"}
		})
		out, err := translate.Gang(in)
		if got := translate.PullFirst(in.Cluster, &out); err != nil || got != tc.want {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}

func TestPullSecrets(t *testing.T) {
	in := imageInput(func(p *corev1.Pod, _ *hpcv1alpha1.BatchCluster) {
		p.Spec.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "new"}, {Name: "old"}, {Name: "gone"}}
	})
	in.Members[0].Secrets = map[string]*corev1.Secret{
		"new": {Data: map[string][]byte{corev1.DockerConfigJsonKey: []byte(`{"auths":{}}`)}},
		"old": {Data: map[string][]byte{corev1.DockerConfigKey: []byte(`{"r":{}}`)}},
	}
	out, err := translate.Gang(in)
	if err != nil {
		t.Fatal(err)
	}
	if got := out.PullSecrets[0]; len(got) != 2 || string(got[0]) != `{"auths":{}}` || string(got[1]) != `{"auths":{"r":{}}}` {
		t.Errorf("secrets %q", got)
	}
	if !slices.ContainsFunc(out.Notes, func(n string) bool {
		return n == `spec.imagePullSecrets[2]: secret "gone" not found; images are pulled without it`
	}) {
		t.Errorf("notes %q", out.Notes)
	}
	if _, secrets := translate.References(in.Members[0].Pod, false); len(secrets) != 3 || !secrets[0].Optional {
		t.Errorf("references %v", secrets)
	}
}
