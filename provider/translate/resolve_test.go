package translate_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/translate"
)

func objects(in translate.Input) translate.Input {
	in.Members[0].ConfigMaps = map[string]*corev1.ConfigMap{"cm": {
		ObjectMeta: metav1.ObjectMeta{Name: "cm"},
		Data:       map[string]string{"A": "from-cm", "B": "b", "1digit": "d", "file.txt": "text"},
		BinaryData: map[string][]byte{"bin": {0, 255}},
	}}
	in.Members[0].Secrets = map[string]*corev1.Secret{"sec": {
		ObjectMeta: metav1.ObjectMeta{Name: "sec"},
		Data:       map[string][]byte{"token": {0xff, 0xfe, 'x'}, "nul": {'a', 0}},
	}}
	return in
}

func cmRef(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }

func ref(path string) *corev1.EnvVarSource {
	return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
}

func TestEnvironment(t *testing.T) {
	yes := true
	p := newPod(0)
	p.Spec.ServiceAccountName = "sa"
	c := &p.Spec.Containers[0]
	c.EnvFrom = []corev1.EnvFromSource{
		{Prefix: "P_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cmRef("cm")}},
		{Prefix: "ä", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cmRef("cm")}},
		{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cmRef("gone"), Optional: &yes}},
	}
	c.Env = []corev1.EnvVar{
		{Name: "PLAIN", Value: "$(P_A) $$(X)\nnew line"},
		{Name: "EMPTY"},
		{Name: "POD", ValueFrom: ref("metadata.name")},
		{Name: "LABEL", ValueFrom: ref("metadata.labels['tier']")},
		{Name: "NODE", ValueFrom: ref("spec.nodeName")},
		{Name: "SA", ValueFrom: ref("spec.serviceAccountName")},
		{Name: "IP", ValueFrom: ref("status.podIP")},
		{Name: "KEY", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: cmRef("cm"), Key: "B"}}},
		{Name: "BYTES", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: cmRef("sec"), Key: "token"}}},
		{Name: "MAYBE", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: cmRef("sec"), Key: "none", Optional: &yes}}},
		{Name: "CPU", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}},
		{Name: "MILLI", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "requests.cpu", Divisor: resource.MustParse("1m")}}},
		{Name: "MEM", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "requests.memory", Divisor: resource.MustParse("1Mi")}}},
	}
	out, err := translate.Gang(objects(input(p)))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, v := range out.Pods[0].Env["main"] {
		text := v.Name + "=" + string(v.Value)
		if v.Expand {
			text += " (expand)"
		}
		if v.Field != "" {
			text += "<" + v.Field + ">"
		}
		got = append(got, text)
	}
	want := []string{
		"P_1digit=d", "P_A=from-cm", "P_B=b", "P_file.txt=text",
		"PLAIN=$(P_A) $$(X)\nnew line (expand)", "EMPTY=", "POD=job-worker-0", "LABEL=a\"b", "NODE=c-gpu", "SA=sa", "IP=<status.podIP>",
		"KEY=b", "BYTES=\xff\xfex", "CPU=2", "MILLI=1500", "MEM=2",
	}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("environment\n got %q\nwant %q", got, want)
	}
	if len(out.Pods[0].Pod.Spec.Containers[0].Env) != 0 || len(out.Pods[0].Pod.Spec.Containers[0].EnvFrom) != 0 {
		t.Error("the manifest keeps the unresolved environment")
	}
	if len(out.Events) != 1 || out.Events[0].Reason != "InvalidEnvironmentVariableNames" || !strings.Contains(out.Events[0].Message, "äfile.txt") {
		t.Errorf("events %q", out.Events)
	}
}

func TestMissingObjectsWait(t *testing.T) {
	tests := map[string]struct {
		change func(*corev1.Pod)
		field  string
		reason string
	}{
		"env key": {func(p *corev1.Pod) {
			p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: cmRef("cm"), Key: "none"}}}}
		}, "spec.containers[0].env[0].valueFrom.configMapKeyRef", translate.ReasonConfig},
		"env from": {func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: cmRef("gone")}}}
		}, "spec.containers[0].envFrom[0].secretRef", translate.ReasonConfig},
		"volume": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "gone"}}}}
		}, "spec.volumes[0].secret", translate.ReasonMount},
		"volume key": {func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: cmRef("cm"), Items: []corev1.KeyToPath{{Key: "none", Path: "x"}}}}}}
		}, "spec.volumes[0].configMap.items[0].key", translate.ReasonMount},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPod(0)
			tc.change(p)
			_, err := translate.Gang(objects(input(p)))
			wantRefusal(t, err, tc.field, false)
			if r := err.(*translate.Refusal); r.Reason != tc.reason { //nolint:errorlint // wantRefusal has checked the type
				t.Errorf("reason %s, want %s", r.Reason, tc.reason)
			}
			// A permanent cause beside it decides.
			p.Spec.Containers[0].Command = nil
			_, err = translate.Gang(objects(input(p)))
			if r := err.(*translate.Refusal); !r.Permanent { //nolint:errorlint // as above
				t.Errorf("the permanent cause does not come first: %v", err)
			}
		})
	}
}

func TestVolumes(t *testing.T) {
	mode, mode2 := int32(0o400), int32(0o755)
	size := resource.MustParse("1Gi")
	p := newPod(0)
	p.Spec.Volumes = []corev1.Volume{
		{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: cmRef("cm"), DefaultMode: &mode, Items: []corev1.KeyToPath{{Key: "file.txt", Path: "d/f"}, {Key: "bin", Path: "b", Mode: &mode2}}}}},
		{Name: "all", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{Secret: &corev1.SecretProjection{LocalObjectReference: cmRef("sec"), Items: []corev1.KeyToPath{{Key: "token", Path: "t"}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
				{Path: "ip", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.hostIP"}},
				{Path: "cpu", ResourceFieldRef: &corev1.ResourceFieldSelector{ContainerName: "main", Resource: "requests.cpu"}},
			}}},
		}}}},
		{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: &size}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data/x/"}}},
		{Name: "kube-api-access-abcde", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: cmRef("kube-root-ca.crt")}},
		}}}},
	}
	for _, v := range p.Spec.Volumes {
		p.Spec.Containers[0].VolumeMounts = append(p.Spec.Containers[0].VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/mnt/" + v.Name})
	}
	out, err := translate.Gang(objects(input(p)))
	if err != nil {
		t.Fatal(err)
	}
	m := out.Pods[0]
	files := out.Files[0]
	if f := files["cm"]["d/f"]; string(f.Data) != "text" || f.Mode != 0o400 || m.Volumes["cm"].Modes["d/f"] != 0o400 || files["cm"]["b"].Mode != 0o755 {
		t.Errorf("volume cm: %+v, %+v", files["cm"], m.Volumes["cm"])
	}
	if string(files["all"]["t"].Data) != "\xff\xfex" || string(files["all"]["labels"].Data) != "app=\"x\"\ntier=\"a\\\"b\"" || string(files["all"]["cpu"].Data) != "2" ||
		m.Volumes["all"].NodeFields["ip"] != "status.hostIP" {
		t.Errorf("volume all: %v, %+v", files["all"], m.Volumes["all"])
	}
	if v := m.Volumes["tmp"]; v.Kind != "memory" || v.SizeBytes != 1<<30 {
		t.Errorf("volume tmp: %+v", v)
	}
	if v := m.Volumes["host"]; v.Kind != "hostPath" || v.Path != "/data/x" {
		t.Errorf("volume host: %+v", v)
	}
	if len(m.Volumes) != 4 || len(m.Pod.Spec.Volumes) != 4 || len(m.Pod.Spec.Containers[0].VolumeMounts) != 4 {
		t.Errorf("the token volume was not left out: %d, %d, %d", len(m.Volumes), len(m.Pod.Spec.Volumes), len(m.Pod.Spec.Containers[0].VolumeMounts))
	}
	if len(out.Notes) != 1 || !strings.Contains(out.Notes[0], "get no service-account token") {
		t.Errorf("notes %q", out.Notes)
	}
}

func TestReferences(t *testing.T) {
	yes := true
	p := newPod(0)
	p.Spec.Volumes = []corev1.Volume{
		{Name: "a", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: cmRef("both"), Optional: &yes}}},
		{Name: "kube-api-access-x", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}, {ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: cmRef("kube-root-ca.crt")}},
		}}}},
		{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "sec", Optional: &yes}}},
	}
	p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cmRef("both")}}}
	cms, secs := translate.References(p, false)
	if len(cms) != 1 || cms[0] != (translate.Ref{Name: "both"}) || len(secs) != 1 || secs[0] != (translate.Ref{Name: "sec", Optional: true}) {
		t.Errorf("references %v, %v", cms, secs)
	}
	if cms, _ = translate.References(p, true); len(cms) != 2 || cms[1].Name != "kube-root-ca.crt" {
		t.Errorf("references with tokens %v", cms)
	}
}

func TestVolumeBounds(t *testing.T) {
	p := newPod(0)
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: cmRef("big")}}}}
	in := input(p)
	in.Members[0].ConfigMaps = map[string]*corev1.ConfigMap{"big": {Data: map[string]string{"x": strings.Repeat("x", 16<<20+1)}}}
	_, err := translate.Gang(in)
	wantRefusal(t, err, "spec.volumes", true)
	in.Members[0].ConfigMaps["big"] = &corev1.ConfigMap{Data: map[string]string{"../x": "", "..data": ""}}
	_, err = translate.Gang(in)
	wantRefusal(t, err, "spec.volumes[0].configMap.path", true)
	p.Spec.Volumes[0].ConfigMap.Items = []corev1.KeyToPath{{Key: "k", Path: "a"}, {Key: "k", Path: "a/b"}}
	in.Members[0].ConfigMaps["big"] = &corev1.ConfigMap{Data: map[string]string{"k": ""}}
	_, err = translate.Gang(in)
	wantRefusal(t, err, "spec.volumes[0]", true)
}
