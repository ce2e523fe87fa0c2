package translate_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

func newPod(rank int) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("job-worker-%d", rank), Namespace: "team", UID: types.UID(fmt.Sprintf("uid-%d", rank)),
			Labels: map[string]string{"app": "x", "tier": "a\"b"}, Annotations: map[string]string{},
		},
		Spec: corev1.PodSpec{
			NodeName: "c-gpu", RestartPolicy: corev1.RestartPolicyNever, Subdomain: "job", Hostname: fmt.Sprintf("job-worker-%d", rank),
			Containers: []corev1.Container{{
				Name: "main", Image: "busybox", Command: []string{"sh", "-c", "true"},
				Resources: corev1.ResourceRequirements{Requests: list("cpu", "1500m", "memory", "1025Ki")},
			}},
		},
	}
}

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

func input(pods ...*corev1.Pod) translate.Input {
	in := translate.Input{
		Cluster: &hpcv1alpha1.BatchCluster{
			ObjectMeta: metav1.ObjectMeta{Name: "c"},
			Spec:       hpcv1alpha1.BatchClusterSpec{Type: "slurm", HostPaths: []string{"/scratch", "/data/"}},
		},
		Node:    hpcv1alpha1.VirtualNode{Name: "c-gpu", Partition: "gpu", QOS: "normal", Constraint: "ib"},
		Account: account.Account{User: "alice", Account: "proj"},
		Key:     "iabc", Owner: "c-1", Attempt: "att", Launcher: "slurm", WorkDir: "/staging/alice/g/iabc",
		Capabilities: backends.Capabilities{Heterogeneous: true, ExclusiveComponents: true},
		GPUTypes:     []string{"a100"},
		UID:          1001, GID: 1002, Groups: []int64{1002, 2000},
	}
	for i, p := range pods {
		in.Members = append(in.Members, translate.Member{Rank: i, Pod: p})
	}
	return in
}

func TestEqualMembersArePlain(t *testing.T) {
	in := input(newPod(0), newPod(1), newPod(2))
	slices.Reverse(in.Members) // the order of members does not matter
	out, err := translate.Gang(in)
	if err != nil {
		t.Fatal(err)
	}
	want := backends.JobSpec{
		Key: "iabc", Owner: "c-1", User: "alice", Partition: "gpu", Account: "proj", QOS: "normal", Constraint: "ib",
		Grace: 30 * time.Second, WorkDir: "/staging/alice/g/iabc",
		Components: []backends.Component{{Tasks: 3, CPUs: 2, MemoryMiB: 2}},
	}
	if got, w := asJSON(t, out.Spec), asJSON(t, want); got != w {
		t.Errorf("spec\n got %s\nwant %s", got, w)
	}
	for i := range 3 {
		if out.Ranks[fmt.Sprintf("uid-%d", i)] != i || out.Pods[i].Rank != i || out.Gang.Members[i].UID != fmt.Sprintf("uid-%d", i) {
			t.Errorf("rank %d is %+v", i, out.Gang.Members[i])
		}
	}
	names := []string{"job-worker-1", "job-worker-1.job", "job-worker-1.job.team", "job-worker-1.job.team.svc", "job-worker-1.job.team.svc.cluster.local"}
	if !slices.Equal(out.Gang.Members[1].Hostnames, names) {
		t.Errorf("host names %v", out.Gang.Members[1].Hostnames)
	}
	again, err := translate.Gang(in)
	if err != nil || asJSON(t, again) != asJSON(t, out) {
		t.Errorf("a second translation differs: %v", err)
	}
}

func TestUnequalMembers(t *testing.T) {
	pods := []*corev1.Pod{newPod(0), newPod(1), newPod(2), newPod(3)}
	for _, i := range []int{1, 3} {
		pods[i].Spec.Containers[0].Resources.Limits = list("nvidia.com/gpu", "2")
	}
	in := input(pods...)
	out, err := translate.Gang(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Spec.Components) != 2 || out.Spec.Components[1].GPUs["a100"] != 2 || out.Spec.Components[1].Tasks != 2 {
		t.Errorf("components %+v", out.Spec.Components)
	}
	wantRanks := map[string]int{"uid-0": 0, "uid-2": 1, "uid-1": 2, "uid-3": 3}
	for uid, rank := range wantRanks {
		if out.Ranks[uid] != rank || string(out.Pods[rank].Pod.UID) != uid || out.Pods[rank].Rank != rank || out.Gang.Members[rank].UID != uid {
			t.Errorf("%s has rank %d, want %d", uid, out.Ranks[uid], rank)
		}
	}

	in.Capabilities.Heterogeneous = false
	out, err = translate.Gang(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Spec.Components) != 1 || out.Spec.Components[0].Tasks != 4 || out.Spec.Components[0].GPUs["a100"] != 2 || len(out.Notes) != 1 {
		t.Errorf("components %+v, notes %q", out.Spec.Components, out.Notes)
	}
}

func TestGPUTypes(t *testing.T) {
	both := map[string]string{"a100": "nvidia.com/gpu", "h100": "nvidia.com/gpu", "mi300": "amd.com/gpu"}
	tests := map[string]struct {
		types     []string
		mapping   map[string]string
		resource  string
		model     string
		want      string
		refusedAt string
	}{
		"one type":                            {types: []string{"a100"}, resource: "nvidia.com/gpu", want: "a100"},
		"two types: any":                      {types: []string{"a100", "h100"}, resource: "nvidia.com/gpu", want: ""},
		"two types: chosen":                   {types: []string{"a100", "h100"}, resource: "nvidia.com/gpu", model: "h100", want: "h100"},
		"chosen but not there":                {types: []string{"a100"}, resource: "nvidia.com/gpu", model: "h100", refusedAt: "metadata.annotations[isthmus.sh/gpu-model]"},
		"untyped only":                        {types: []string{""}, resource: "nvidia.com/gpu", want: ""},
		"own resource":                        {types: []string{"a100", "mi300"}, mapping: both, resource: "amd.com/gpu", want: "mi300"},
		"ambiguous beside another resource":   {types: []string{"a100", "h100", "mi300"}, mapping: both, resource: "nvidia.com/gpu", refusedAt: "spec.containers[*].resources"},
		"resource without a type on the node": {types: []string{"a100"}, mapping: both, resource: "amd.com/gpu", refusedAt: "spec.containers[*].resources"},
		"unknown resource":                    {types: []string{"a100"}, resource: "example.com/fpga", refusedAt: "spec.containers[0].resources.requests[example.com/fpga]"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPod(0)
			p.Spec.Containers[0].Resources.Requests = list("cpu", "1", tc.resource, "1")
			if tc.model != "" {
				p.Annotations[wellknown.GPUModel] = tc.model
			}
			in := input(p)
			in.GPUTypes, in.Node.GPUResources = tc.types, tc.mapping
			out, err := translate.Gang(in)
			if tc.refusedAt != "" {
				wantRefusal(t, err, tc.refusedAt, true)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if n, has := out.Spec.Components[0].GPUs[tc.want]; !has || n != 1 {
				t.Errorf("GPUs %v, want type %q", out.Spec.Components[0].GPUs, tc.want)
			}
		})
	}
}

func TestEffectiveRequests(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	p := newPod(0)
	p.Spec.InitContainers = []corev1.Container{
		{Name: "side", Command: []string{"s"}, RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: list("cpu", "1", "memory", "1Gi")}},
		{Name: "prep", Command: []string{"p"}, Resources: corev1.ResourceRequirements{Limits: list("cpu", "7")}},
	}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Limits: list("cpu", "2", "memory", "2Gi", "nvidia.com/gpu", "1")}
	out, err := translate.Gang(input(p))
	if err != nil {
		t.Fatal(err)
	}
	// prep runs beside the sidecar: 7+1; memory: side and main together.
	want := backends.Component{Tasks: 1, CPUs: 8, MemoryMiB: 3072, GPUs: map[string]int64{"a100": 1}}
	if asJSON(t, out.Spec.Components[0]) != asJSON(t, want) {
		t.Errorf("component %+v, want %+v", out.Spec.Components[0], want)
	}
}

func TestWalltime(t *testing.T) {
	hour := &metav1.Duration{Duration: time.Hour}
	day := &metav1.Duration{Duration: 24 * time.Hour}
	tests := map[string]struct {
		annotation string
		deadline   int64
		def, max   *metav1.Duration
		partition  backends.Partition
		want       time.Duration
		refusedAt  string
	}{
		"nothing":                            {},
		"annotation":                         {annotation: "90m", want: 90 * time.Minute},
		"slurm form":                         {annotation: "1-12:00:00", want: 36 * time.Hour},
		"annotation wins":                    {annotation: "2h", deadline: 60, def: day, want: 2 * time.Hour},
		"deadline with margin":               {deadline: 600, want: 11*time.Minute + 30*time.Second},
		"margin within the limit":            {deadline: 3600, max: hour, want: time.Hour},
		"default":                            {def: hour, want: time.Hour},
		"default is cut":                     {def: day, max: hour, want: time.Hour},
		"no wish and a limit":                {max: hour, want: time.Hour},
		"the partition's default is shorter": {max: hour, partition: backends.Partition{DefaultWalltime: time.Minute}},
		"too long":                           {annotation: "25h", max: day, refusedAt: "metadata.annotations[isthmus.sh/walltime]"},
		"deadline too long":                  {deadline: 7200, max: hour, refusedAt: "spec.activeDeadlineSeconds"},
		"longer than the partition":          {annotation: "2h", partition: backends.Partition{MaxWalltime: time.Hour}, refusedAt: "metadata.annotations[isthmus.sh/walltime]"},
		"nonsense":                           {annotation: "soon", refusedAt: "metadata.annotations[isthmus.sh/walltime]"},
		"an option":                          {annotation: "--exclusive", refusedAt: "metadata.annotations[isthmus.sh/walltime]"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPod(0)
			if tc.annotation != "" {
				p.Annotations[wellknown.Walltime] = tc.annotation
			}
			if tc.deadline != 0 {
				p.Spec.ActiveDeadlineSeconds = &tc.deadline
			}
			in := input(p)
			in.Cluster.Spec.Walltime, in.Partition = hpcv1alpha1.Walltime{Default: tc.def, Max: tc.max}, tc.partition
			out, err := translate.Gang(in)
			if tc.refusedAt != "" {
				wantRefusal(t, err, tc.refusedAt, true)
				return
			}
			if err != nil || out.Spec.Walltime != tc.want {
				t.Errorf("walltime %s (%v), want %s", out.Spec.Walltime, err, tc.want)
			}
		})
	}
}

func TestParseWalltime(t *testing.T) {
	good := map[string]time.Duration{
		"30": 30 * time.Minute, "30:15": 30*time.Minute + 15*time.Second, "1:30:00": 90 * time.Minute,
		"2-12": 60 * time.Hour, "0-0:5": 5 * time.Minute, "1-0:0:1": 24*time.Hour + time.Second, "1.5h": 90 * time.Minute, "1500ms": 2 * time.Second,
	}
	for text, want := range good {
		if got, err := translate.ParseWalltime(text); err != nil || got != want {
			t.Errorf("%q: %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{"", "0", "-5", "-1h", "1-", "1-1:1:1:1", "1:2:3:4", "UNLIMITED", "1 h", "9999999", "999999-0", "1e3h", "٣h", strings.Repeat("1", 40)} {
		if got, err := translate.ParseWalltime(text); err == nil {
			t.Errorf("%q is %s, want an error", text, got)
		}
	}
}

func FuzzParseWalltime(f *testing.F) {
	f.Add("1-12:30:00")
	f.Add("90m")
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := translate.ParseWalltime(s); err == nil && d <= 0 {
			t.Errorf("%q is %s", s, d)
		}
	})
}

func TestGangRefusals(t *testing.T) {
	other := newPod(1)
	other.Namespace = "other-team"
	if _, err := translate.Gang(input(newPod(0), other)); err == nil || !strings.Contains(err.Error(), "one namespace") {
		t.Errorf("a gang across namespaces: %v", err)
	}
	if _, err := translate.Gang(input(newPod(0), newPod(0))); err == nil {
		t.Error("one UID twice was accepted")
	}
	in := input(newPod(0))
	in.Account.Partitions = []string{"debug"}
	if _, err := translate.Gang(in); err == nil || !strings.Contains(err.Error(), "may not use partition gpu") {
		t.Errorf("a partition that the account may not use: %v", err)
	}
	if _, err := translate.Gang(translate.Input{}); err == nil {
		t.Error("an empty input was accepted")
	}
}

// Hosts of the partition that are not part of the node are left out of its jobs,
// or the pods wait and say why they cannot be.
func TestHostsOfTheNode(t *testing.T) {
	tests := map[string]struct {
		include, exclude, hosts []string
		cannot                  bool
		want                    []string
		wait                    string
		one                     bool
		only                    string
	}{
		"all":          {hosts: []string{"a", "b"}, cannot: true},
		"some":         {include: []string{"b", "z"}, hosts: []string{"c", "b", "a"}, want: []string{"a", "c"}},
		"not one":      {exclude: []string{"b", "z"}, hosts: []string{"a", "b"}, want: []string{"b"}},
		"both":         {include: []string{"a", "b"}, exclude: []string{"b"}, hosts: []string{"a", "b", "c"}, want: []string{"b", "c"}},
		"not there":    {exclude: []string{"z"}, hosts: []string{"a"}, cannot: true},
		"unable":       {exclude: []string{"a"}, hosts: []string{"a", "b"}, cannot: true, wait: "HostsNotSupported"},
		"one is left":  {exclude: []string{"a", "c"}, hosts: []string{"a", "b", "c"}, cannot: true, one: true, only: "b"},
		"two are left": {exclude: []string{"a"}, hosts: []string{"a", "b", "c"}, cannot: true, one: true, wait: "HostsNotSupported"},
		"none is left": {include: []string{"z"}, hosts: []string{"a", "b"}, wait: "PartitionNotUsable"},
		"not known":    {include: []string{"a"}, wait: "PartitionNotKnown"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := input(newPod(0))
			in.Node.IncludeHosts, in.Node.ExcludeHosts = tc.include, tc.exclude
			in.Partition.Hosts, in.Capabilities.ExcludeHosts, in.Capabilities.OneHost = tc.hosts, !tc.cannot, tc.one
			out, err := translate.Gang(in)
			var r *translate.Refusal
			switch {
			case tc.wait != "":
				if !errors.As(err, &r) || r.Permanent || r.Reason != tc.wait || !strings.Contains(r.Message, "includeHosts, excludeHosts") {
					t.Errorf("error %v, want to wait for %s", err, tc.wait)
				}
			case err != nil || !slices.Equal(out.Spec.ExcludedHosts, tc.want) || out.Spec.Host != tc.only:
				t.Errorf("left out %v, only %q, %v; want %v, %q", out.Spec.ExcludedHosts, out.Spec.Host, err, tc.want, tc.only)
			}
		})
	}
}

// wantRefusal checks that err refuses at the field.
func wantRefusal(t *testing.T, err error, field string, permanent bool) {
	t.Helper()
	var r *translate.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("error %v, want a refusal at %s", err, field)
	}
	all := append([]*translate.Refusal{r}, r.Also...)
	for _, one := range all {
		if one.Field == field {
			if one.Permanent != permanent || one.Message == "" || one.Reason == "" {
				t.Errorf("refusal %+v, want permanent %v", one, permanent)
			}
			return
		}
	}
	t.Errorf("refused with %q, want the field %s", err, field)
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
