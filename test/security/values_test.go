package security_test

import (
	"path"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/test/testbed/helm"
)

// deployments gives the pods of each program, by the name of the deployment.
func deployments(t *testing.T, objects []*unstructured.Unstructured) map[string]corev1.PodTemplateSpec {
	t.Helper()
	out := map[string]corev1.PodTemplateSpec{}
	for _, d := range as[appsv1.Deployment](t, objects, "Deployment") {
		out[d.Name] = d.Spec.Template
	}
	return out
}

// flagOf is the value of a flag of the first container; "" when it is not given.
func flagOf(pod corev1.PodTemplateSpec, name string) string {
	for _, a := range pod.Spec.Containers[0].Args {
		if value, ok := strings.CutPrefix(a, "--"+name+"="); ok {
			return value
		}
	}
	return ""
}

// TestSchedulerConfiguration: the text of the values is what the scheduler reads, and
// a change of it arrives, since the folder is mounted and not a file of it.
func TestSchedulerConfiguration(t *testing.T) {
	const text = `
scheduler:
  config: |
    actions: "enqueue, allocate, backfill"
    tiers:
    - plugins: [{name: priority}, {name: gang}]
    - plugins: [{name: drf}, {name: proportion}, {name: binpack, arguments: {binpack.weight: 10}}]
`
	file := func(values string) (corev1.PodTemplateSpec, string) {
		t.Helper()
		objects := render(t, values)
		pod := deployments(t, objects)["isthmus-scheduler"]
		conf := flagOf(pod, "scheduler-conf")
		if conf == "" {
			return pod, ""
		}
		mounts := pod.Spec.Containers[0].VolumeMounts
		if len(mounts) != 1 || mounts[0].MountPath != path.Dir(conf) || mounts[0].SubPath != "" || !mounts[0].ReadOnly ||
			len(pod.Spec.Volumes) != 1 || pod.Spec.Volumes[0].Name != mounts[0].Name || pod.Spec.Volumes[0].ConfigMap == nil {
			t.Fatalf("%s is given, with mounts %+v of volumes %+v", conf, mounts, pod.Spec.Volumes)
		}
		for _, m := range as[corev1.ConfigMap](t, objects, "ConfigMap") {
			if m.Name == pod.Spec.Volumes[0].ConfigMap.Name {
				return pod, m.Data[path.Base(conf)]
			}
		}
		return pod, ""
	}
	_, got := file(text)
	conf, warnings, err := config.Parse([]byte(got))
	if err != nil || len(warnings) > 0 {
		t.Fatalf("%q: %v, %q", got, err, warnings)
	}
	// The scheduler adds what is never left out.
	if len(conf.Actions) < 3 || conf.Actions[2].Name != "backfill" || len(conf.Tiers) != 2 || len(conf.Tiers[1]) != 3 {
		t.Errorf("the scheduler reads %+v", conf)
	}
	pod, _ := file("scheduler: {configMap: {name: of-volcano, key: other.conf}}")
	if pod.Spec.Volumes[0].ConfigMap.Name != "of-volcano" || flagOf(pod, "scheduler-conf") != "/etc/isthmus/scheduler/other.conf" {
		t.Errorf("another ConfigMap gives %q of %+v", flagOf(pod, "scheduler-conf"), pod.Spec.Volumes)
	}
	if pod, _ = file(""); flagOf(pod, "scheduler-conf") != "" || len(pod.Spec.Volumes) > 0 {
		t.Errorf("without a configuration: %+v", pod.Spec)
	}
	if _, err := helm.Template(t.Context(), t.Output(), namespace, text+"  configMap: {name: of-volcano}\n"); err == nil || !strings.Contains(err.Error(), "scheduler.configMap.name") {
		t.Errorf("both ways at once: %v", err)
	}
}

// TestSigner: who asks, who approves and what approving needs are of the same signer.
func TestSigner(t *testing.T) {
	const signer = "beta.example.com/app-serving"
	objects := render(t, "clusters: [{name: hpc}]\nvnode: {signerName: "+signer+"}\n")
	pods := deployments(t, objects)
	for _, name := range []string{"isthmus-vnode-hpc", "isthmus-controllers"} {
		if got := flagOf(pods[name], "cert-signer"); got != signer {
			t.Errorf("%s has the signer %q", name, got)
		}
	}
	var approves []string
	for _, r := range as[rbacv1.ClusterRole](t, objects, "ClusterRole") {
		for _, rule := range r.Rules {
			if slices.Contains(rule.Resources, "signers") {
				approves = append(approves, rule.ResourceNames...)
			}
		}
	}
	if !slices.Equal(approves, []string{signer}) {
		t.Errorf("the controllers may approve for %q", approves)
	}
}

// TestPlacement: pods go where the values say, and keep apart where these say nothing.
func TestPlacement(t *testing.T) {
	const place = `{nodeSelector: {pool: control}, tolerations: [{key: pool, operator: Exists}], podAnnotations: {a: b},
    affinity: {nodeAffinity: {}}, topologySpreadConstraints: [{maxSkew: 1, topologyKey: zone, whenUnsatisfiable: ScheduleAnyway}]}`
	for name, pod := range deployments(t, render(t, "scheduler: "+place+"\ncontrollers: "+place+
		"\nclusters: [{name: hpc, nodeSelector: {pool: control}, tolerations: [{key: pool, operator: Exists}], podAnnotations: {a: b}, affinity: {nodeAffinity: {}}}]\n")) {
		s := pod.Spec
		if s.NodeSelector["pool"] != "control" || len(s.Tolerations) != 1 || s.Tolerations[0].Operator != corev1.TolerationOpExists ||
			s.Affinity == nil || s.Affinity.NodeAffinity == nil || s.Affinity.PodAntiAffinity != nil || pod.Annotations["a"] != "b" {
			t.Errorf("%s: %v %+v %+v %v", name, s.NodeSelector, s.Tolerations, s.Affinity, pod.Annotations)
		}
		if !strings.HasPrefix(name, "isthmus-vnode") && (len(s.TopologySpreadConstraints) != 1 || s.TopologySpreadConstraints[0].TopologyKey != "zone") {
			t.Errorf("%s is spread by %+v", name, s.TopologySpreadConstraints)
		}
	}
	objects := render(t, "controllers: {replicas: 1}")
	for name, pod := range deployments(t, objects) {
		apart := pod.Spec.Affinity.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution
		if len(apart) != 1 || apart[0].PodAffinityTerm.TopologyKey != corev1.LabelHostname {
			t.Errorf("%s keeps apart by %+v", name, apart)
		}
		for k, v := range apart[0].PodAffinityTerm.LabelSelector.MatchLabels {
			if pod.Labels[k] != v {
				t.Errorf("%s keeps apart from others than its own: %s=%s", name, k, v)
			}
		}
	}
	// A budget for one of one would stop every drain.
	budgets := as[policyv1.PodDisruptionBudget](t, objects, "PodDisruptionBudget")
	if len(budgets) != 1 || budgets[0].Name != "isthmus-scheduler" || budgets[0].Spec.MaxUnavailable.IntValue() != 1 {
		t.Errorf("budgets %+v", budgets)
	}
}

// TestMetrics: each pod of ours has a port that its Service and the network policy
// name; without the value there is none of the three, and TestPods holds that they
// are on loopback.
func TestMetrics(t *testing.T) {
	objects := render(t, full+"metrics: {enabled: true, port: 9100, from: [10.0.0.0/8]}\n")
	services := map[string]corev1.Service{}
	for _, s := range as[corev1.Service](t, objects, "Service") {
		if s.Annotations["prometheus.io/scrape"] == "true" {
			services[s.Spec.Selector["app.kubernetes.io/component"]] = s
		}
	}
	pods := deployments(t, objects)
	for name, pod := range pods {
		s, ok := services[pod.Labels["app.kubernetes.io/component"]]
		if !ok || s.Spec.ClusterIP != corev1.ClusterIPNone || s.Annotations["prometheus.io/port"] != "9100" || s.Spec.Ports[0].TargetPort.StrVal != "metrics" {
			t.Errorf("%s has the service %+v", name, s)
		}
		port := slices.ContainsFunc(pod.Spec.Containers[0].Ports, func(p corev1.ContainerPort) bool { return p.Name == "metrics" && p.ContainerPort == 9100 })
		if flagOf(pod, "metrics-bind-address") != ":9100" || !port {
			t.Errorf("%s: %q, ports %+v", name, pod.Spec.Containers[0].Args, pod.Spec.Containers[0].Ports)
		}
	}
	if len(services) != 3 || len(pods) != 4 {
		t.Errorf("%d services for %d deployments", len(services), len(pods))
	}
	found := 0
	for _, p := range as[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy") {
		for _, in := range p.Spec.Ingress {
			for _, port := range in.Ports {
				if port.Port.StrVal == "metrics" {
					found++
					if len(in.From) != 1 || in.From[0].IPBlock.CIDR != "10.0.0.0/8" || len(in.Ports) != 1 {
						t.Errorf("%s lets in %+v", p.Name, in)
					}
				}
			}
		}
	}
	if found != 1 {
		t.Errorf("%d policies let Prometheus in", found)
	}
	for _, o := range render(t, full) {
		if strings.Contains(o.GetName(), "metrics") {
			t.Errorf("%s %s without the value", o.GetKind(), o.GetName())
		}
	}
}
