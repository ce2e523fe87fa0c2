package translate_test

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// marker is in every payload, to be searched for where it must not be.
const marker = "PWN1234"

// payloads is the corpus of 200 and more hostile texts.
func payloads() []string {
	seeds := []string{
		"$(touch M)", "`touch M`", "; touch M", "| touch M", "&& touch M", "\ntouch M\n", "\r\ntouch M", "'; touch M; '", "\"; touch M; \"",
		"#SBATCH --uid=0 M", "\n#SBATCH --uid=0 M\n", "\n#PBS -u root M", "--export=ALL,M", "-o/etc/passwd M", "--wrap=M", "-M", "--M",
		"M\x00", "\x00M", "M\xff\xfe", "../../M", "/etc/M", "..", "M/../..", "M,N=1", "M:=N", "${IFS}M", "$M", "%M%s%n", "\u202eM", "M\u2028N",
		"M" + strings.Repeat("A", 5000), "M\t", " M", "M ", "{M}", "[M]", "*M?", "~M", "M&", "M>x", "<M", "!M", "\\M", "\x1b[31mM", "M=1", "=M",
		"{user}M", "root M", "0M", "M.service", "é M", "M'--'",
	}
	var out []string
	for _, s := range seeds {
		s = strings.ReplaceAll(s, "M", marker)
		out = append(out, s, "x"+s, s+"x", "a-"+s+"-b")
	}
	return append(out, "", "-", "--", ".", "/")
}

// richPod has every kind of field that translate reads.
func richPod() *corev1.Pod {
	p := newPod(0)
	p.Annotations = map[string]string{wellknown.Walltime: "1h", wellknown.Runtime: "host", wellknown.GPUModel: "a100", "note": "text"}
	p.Spec.NodeSelector = map[string]string{wellknown.GPUModel: "a100"}
	p.Spec.HostAliases = []corev1.HostAlias{{IP: "10.0.0.9", Hostnames: []string{"db"}}}
	p.Spec.InitContainers = []corev1.Container{{Name: "prep", Command: []string{"true"}, WorkingDir: "/tmp"}}
	c := main(p)
	c.Args, c.WorkingDir, c.TerminationMessagePath = []string{"arg"}, "/tmp", "/dev/termination-log"
	c.Resources.Limits = list("nvidia.com/gpu", "1")
	c.Env = []corev1.EnvVar{
		{Name: "A", Value: "v"}, {Name: "B", ValueFrom: ref("metadata.labels['app']")},
		{Name: "C", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: cmRef("sec"), Key: "token"}}},
		{Name: "D", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "limits.cpu"}}},
	}
	c.EnvFrom = []corev1.EnvFromSource{{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cmRef("cm")}}}
	c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/x", Host: "h", HTTPHeaders: []corev1.HTTPHeader{{Name: "N", Value: "V"}}}}}
	c.Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"stop"}}}}
	c.Ports = []corev1.ContainerPort{{Name: "p", ContainerPort: 80}}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: cmRef("cm"), Items: []corev1.KeyToPath{{Key: "A", Path: "a"}}}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/scratch/x"}}},
		{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{{Path: "l", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
	}
	c.VolumeMounts = []corev1.VolumeMount{{Name: "cm", MountPath: "/cm", SubPath: "a"}, {Name: "host", MountPath: "/h", SubPathExpr: "$(A)"}, {Name: "down", MountPath: "/d"}}
	return p
}

// setters visits every string of v and gives a function to replace it.
func setters(v reflect.Value, at string, visit func(at string, set func(string))) {
	switch v.Kind() {
	case reflect.String:
		if v.CanSet() {
			visit(at, func(s string) { v.SetString(s) })
		}
	case reflect.Pointer:
		if !v.IsNil() {
			setters(v.Elem(), at, visit)
		}
	case reflect.Slice:
		for i := range v.Len() {
			setters(v.Index(i), fmt.Sprintf("%s[%d]", at, i), visit)
		}
	case reflect.Map:
		if v.Type().Elem().Kind() != reflect.String {
			return
		}
		for _, k := range v.MapKeys() {
			value := v.MapIndex(k)
			visit(at+"["+k.String()+"]", func(s string) { v.SetMapIndex(k, reflect.ValueOf(s).Convert(value.Type())) })
			visit(at+" key", func(s string) { v.SetMapIndex(reflect.ValueOf(s).Convert(k.Type()), value) })
		}
	case reflect.Struct:
		switch v.Interface().(type) {
		case resource.Quantity, metav1.Time:
			return
		}
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() {
				setters(v.Field(i), at+"."+v.Type().Field(i).Name, visit)
			}
		}
	}
}

// launchers are the batch systems that a gang is translated for.
func launchers() []string { return []string{"slurm", "pbs", "local"} }

// TestHostileStrings puts every payload into every string field of a pod. It
// is refused, or the payload stays data: it never gets into the batch job, and
// what is staged comes back byte by byte; for each batch system alike (security
// row S1). What backends make of a batch job has corpora of its own in their tests.
func TestHostileStrings(t *testing.T) {
	corpus := payloads()
	if len(corpus) < 200 {
		t.Fatalf("%d payloads", len(corpus))
	}
	var paths int
	setters(reflect.ValueOf(richPod()).Elem(), "pod", func(string, func(string)) { paths++ })
	accepted, refused, inJobs := 0, 0, 0
	for n := range paths {
		for _, payload := range corpus {
			p := richPod()
			i, field := 0, ""
			setters(reflect.ValueOf(p).Elem(), "pod", func(at string, set func(string)) {
				if i == n {
					field = at
					set(payload)
				}
				i++
			})
			in := objects(input(p))
			out, err := translate.Gang(in)
			for _, other := range launchers()[1:] {
				in.Launcher = other
				again, oerr := translate.Gang(in)
				if (oerr == nil) != (err == nil) || !reflect.DeepEqual(again.Spec, out.Spec) {
					t.Errorf("%s: %q for %s: %+v, %v; for slurm %+v, %v", field, payload, other, again.Spec, oerr, out.Spec, err)
				}
			}
			if err != nil {
				refused++
				if len(err.Error()) > 8<<10 {
					t.Errorf("%s: the refusal has %d bytes", field, len(err.Error()))
				}
				continue
			}
			accepted++
			if !represents(t, out, field, payload) {
				inJobs++
			}
		}
	}
	t.Logf("%d fields x %d payloads x %d batch systems: %d accepted as data in each, %d refused, %d in a batch job",
		paths, len(corpus), len(launchers()), accepted, refused, inJobs)
}

// represents checks that an accepted gang can be submitted and staged, and
// reports whether its batch job is free of the payload.
func represents(t interface{ Errorf(string, ...any) }, out translate.Output, field, payload string) (free bool) {
	if err := out.Spec.Validate(); err != nil {
		t.Errorf("%s: %q was accepted, but the job is invalid: %v", field, payload, err)
	}
	free = true
	if spec := fmt.Sprintf("%+v", out.Spec); strings.Contains(spec, marker) {
		free = false
		t.Errorf("%s: %q got into the batch job: %s", field, payload, spec)
	}
	if _, err := staging.Archive(out); err != nil {
		t.Errorf("%s: %q was accepted, but cannot be staged: %v", field, payload, err)
	}
	for _, p := range out.Pods {
		body, err := json.Marshal(p)
		if err != nil {
			t.Errorf("%s: %v", field, err)
			continue
		}
		var back manifest.Pod
		if err := json.Unmarshal(body, &back); err != nil {
			t.Errorf("%s: %v", field, err)
			continue
		}
		again, err := json.Marshal(back)
		if err != nil || string(again) != string(body) {
			t.Errorf("%s: the manifest does not come back: %v", field, err)
		}
		for _, list := range p.Env {
			for _, v := range list {
				if strings.ContainsAny(v.Name, "= \n\x00") || strings.ContainsRune(string(v.Value), 0) {
					t.Errorf("%s: variable %q", field, v.Name)
				}
			}
		}
	}
	return free
}

// TestAnyGang draws gangs at random: translate never panics, what it accepts
// can be submitted, and every member has one rank.
func TestAnyGang(t *testing.T) {
	quantities := []string{"0", "1", "100m", "1500m", "3", "64", "1Gi", "1025Ki", "9E", "-1", "1n", "123456789"}
	rapid.Check(t, func(t *rapid.T) {
		var pods []*corev1.Pod
		for i := range rapid.IntRange(1, 12).Draw(t, "members") {
			p := newPod(i)
			if rapid.IntRange(0, 3).Draw(t, "rich") == 0 {
				p = richPod()
				p.Name, p.UID = fmt.Sprintf("rich-%d", i), types.UID(fmt.Sprintf("rich-%d", i))
			}
			main(p).Resources.Requests = list(
				"cpu", rapid.SampledFrom(quantities).Draw(t, "cpu"), "memory", rapid.SampledFrom(quantities).Draw(t, "memory"),
				rapid.SampledFrom([]string{"nvidia.com/gpu", "amd.com/gpu", "x.y/z", "ephemeral-storage"}).Draw(t, "name"), rapid.SampledFrom(quantities).Draw(t, "count"))
			if rapid.IntRange(0, 5).Draw(t, "odd") == 0 {
				main(p).Args = rapid.SliceOf(rapid.String()).Draw(t, "args")
				main(p).Env = append(main(p).Env, corev1.EnvVar{Name: rapid.String().Draw(t, "env"), Value: rapid.String().Draw(t, "value")})
			}
			pods = append(pods, p)
		}
		in := objects(input(pods...))
		for i := range in.Members {
			in.Members[i].ConfigMaps, in.Members[i].Secrets = in.Members[0].ConfigMaps, in.Members[0].Secrets
		}
		in.Capabilities.Heterogeneous = rapid.Bool().Draw(t, "heterogeneous")
		in.Node.GPUResources = map[string]string{"mi300": "amd.com/gpu"}
		in.GPUTypes = rapid.SliceOfN(rapid.SampledFrom([]string{"", "a100", "h100", "mi300"}), 0, 3).Draw(t, "types")
		out, err := translate.Gang(in)
		if err != nil {
			return
		}
		represents(t, out, "gang", "")
		tasks, seen := 0, map[int]bool{}
		for _, c := range out.Spec.Components {
			tasks += c.Tasks
		}
		for rank, p := range out.Pods {
			seen[out.Ranks[string(p.Pod.UID)]] = true
			if p.Rank != rank || out.Gang.Members[rank].Rank != rank {
				t.Fatalf("rank %d is %d", rank, p.Rank)
			}
		}
		if tasks != len(pods) || len(out.Pods) != len(pods) || len(seen) != len(pods) {
			t.Fatalf("%d tasks, %d pods, %d ranks for %d members", tasks, len(out.Pods), len(seen), len(pods))
		}
		for i, p := range pods {
			if pods[i].Name != p.Name || len(p.Spec.Containers[0].Command) == 0 {
				t.Fatal("the input was changed")
			}
		}
	})
}
