package security_test

import (
	"slices"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/isthmus-hpc/isthmus/test/testbed/helm"
)

const namespace = "isthmus-system"

// full turns everything on.
const full = `
image: {digests: {vnode: "sha256:` + digest + `"}}
clusters:
- name: hpc
  spec:
    type: slurm
    accounts: [{namespaceSelector: {}, user: alice}]
    staging: {directory: /shared}
- {name: rooted, runAsRoot: true, volumes: [{name: slurm, hostPath: {path: /etc/slurm}}], volumeMounts: [{name: slurm, mountPath: /etc/slurm, readOnly: true}]}
vnode: {namespaces: [default, physics], connectionSecrets: {hpc-keys: [ssh-key]}}
`

const digest = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func render(t *testing.T, values string, kinds ...string) []*unstructured.Unstructured {
	t.Helper()
	objects, err := helm.Template(t.Context(), t.Output(), namespace, values, kinds...)
	if err != nil {
		t.Fatal(err)
	}
	return objects
}

// as converts all objects of a kind.
func as[T any](t *testing.T, objects []*unstructured.Unstructured, kind string) []T {
	t.Helper()
	var out []T
	for _, o := range objects {
		if o.GetKind() != kind {
			continue
		}
		var typed T
		if err := runtime.DefaultUnstructuredConverter.FromUnstructuredWithValidation(o.Object, &typed, true); err != nil {
			t.Fatalf("%s %s: %v", kind, o.GetName(), err)
		}
		out = append(out, typed)
	}
	return out
}

// TestNoWebhookOfPods: with all webhooks on none is asked about pods or what belongs to
// them, so one that is down stops no pod.
func TestNoWebhookOfPods(t *testing.T) {
	objects := render(t, full+"admission: {volcano: {webhook: {enabled: true}}}\n")
	hooks, rules := 0, 0
	look := func(name string, all []admissionv1.RuleWithOperations) {
		hooks++
		for _, r := range all {
			rules++
			for _, resource := range r.Resources {
				kind, _, _ := strings.Cut(resource, "/")
				core := slices.Contains(r.APIGroups, "") || slices.Contains(r.APIGroups, "*")
				if core && (kind == "pods" || kind == "bindings" || kind == "*") {
					t.Errorf("webhook %s is asked about %s", name, resource)
				}
			}
		}
	}
	for _, c := range as[admissionv1.ValidatingWebhookConfiguration](t, objects, "ValidatingWebhookConfiguration") {
		for _, w := range c.Webhooks {
			look(w.Name, w.Rules)
		}
	}
	for _, c := range as[admissionv1.MutatingWebhookConfiguration](t, objects, "MutatingWebhookConfiguration") {
		for _, w := range c.Webhooks {
			look(w.Name, w.Rules)
		}
	}
	if hooks < 2 || rules < 4 {
		t.Errorf("%d webhooks with %d rules, want at least 2 with 4", hooks, rules)
	}
}

func TestChartIsClean(t *testing.T) {
	if err := helm.Lint(t.Context(), t.Output(), full); err != nil {
		t.Error(err)
	}
	for name, wrong := range map[string]string{
		"an unknown value":     "contollers: {}",
		"a cluster's typo":     "clusters: [{nam: x}]",
		"a short digest":       "image: {digests: {vnode: sha256:12}}",
		"a priority too high":  "priorityClass: {value: 2000000000}",
		"a CIDR that is none":  "networkPolicy: {egressTo: [everywhere]}",
		"a word for on":        "admission: {volcano: {policies: always}}",
		"a webhook by http":    "admission: {volcano: {webhook: {url: \"http://a\"}}}",
		"an empty secret list": "vnode: {connectionSecrets: {ns: []}}",
		// In a network policy nobody reads as everybody.
		"metrics for nobody":     "metrics: {enabled: true, from: []}",
		"metrics for null":       "metrics: {enabled: true, from: null}",
		"a webhook for nobody":   "admission: {volcano: {webhook: {from: []}}}",
		"a webhook for null":     "admission: {volcano: {webhook: {from: null}}}",
		"a kubelet for nobody":   "networkPolicy: {kubeletFrom: []}",
		"a kubelet for null":     "networkPolicy: {kubeletFrom: null}",
		"no way out":             "networkPolicy: {egressTo: []}",
		"null ways out":          "networkPolicy: {egressTo: null}",
		"metrics where probes":   "metrics: {enabled: true, port: 8081}",
		"metrics where webhook":  "metrics: {enabled: true, port: 9443}",
		"metrics where kubelet":  "metrics: {enabled: true, port: 10250}\nclusters: [{name: hpc}]",
		"kubelet where metrics":  "metrics: {enabled: true}\nclusters: [{name: hpc, kubeletPort: 8080}]",
		"webhook where probes":   "admission: {volcano: {webhook: {port: 8081}}}",
		"webhook where loopback": "admission: {volcano: {webhook: {port: 8080}}}",
	} {
		if _, err := helm.Template(t.Context(), t.Output(), namespace, wrong); err == nil {
			t.Errorf("%s is rendered", name)
		}
	}
	// Ports that a pod of another program has, or that nobody listens on, are free.
	render(t, "metrics: {enabled: true, port: 10250}\nadmission: {volcano: {webhook: {enabled: false, port: 8081}}}\nclusters: [{name: hpc, kubeletPort: 8081}]\n")
}

// TestNamesLikeNumbers: names that YAML would take for something else stay names.
func TestNamesLikeNumbers(t *testing.T) {
	objects := render(t, `
clusters: [{name: "42", spec: {type: slurm}}]
vnode: {namespaces: ["true"], connectionSecrets: {"7": [ssh-key]}}
controllers: {sshNamespaces: ["1e3"]}
`)
	if d := as[appsv1.Deployment](t, objects, "Deployment"); !slices.ContainsFunc(d, func(d appsv1.Deployment) bool {
		return d.Spec.Selector.MatchLabels["isthmus.sh/cluster"] == "42" && d.Spec.Template.Labels["isthmus.sh/cluster"] == "42"
	}) {
		t.Error("no deployment has the label of cluster 42")
	}
	if !slices.ContainsFunc(objects, func(o *unstructured.Unstructured) bool { return o.GetKind() == "BatchCluster" && o.GetName() == "42" }) {
		t.Error("there is no BatchCluster 42")
	}
	var where []string
	for _, b := range as[rbacv1.RoleBinding](t, objects, "RoleBinding") {
		where = append(where, b.Namespace)
	}
	for _, ns := range []string{"true", "7", "1e3"} {
		if !slices.Contains(where, ns) {
			t.Errorf("no role is bound in namespace %s, only in %q", ns, where)
		}
	}
	if roles := as[rbacv1.Role](t, objects, "Role"); !slices.ContainsFunc(roles, func(r rbacv1.Role) bool { return r.Namespace == "7" }) {
		t.Error("there is no role in namespace 7")
	}
}

// TestDaemonSetsOfNewClusters: whoever fills in defaults of Jobs, DaemonSets are kept
// off virtual nodes where the API server can do it.
func TestDaemonSetsOfNewClusters(t *testing.T) {
	rendered := func(values string, kinds ...string) bool {
		t.Helper()
		return slices.ContainsFunc(render(t, values, kinds...), func(o *unstructured.Unstructured) bool { return o.GetName() == "isthmus-daemonsets" })
	}
	if rendered("") {
		t.Error("the policy is rendered for an API server that does not have its kind")
	}
	for values, want := range map[string]bool{
		"": true, "admission: {volcano: {defaults: none}}": true, "admission: {volcano: {defaults: webhook}}": true,
		"admission: {daemonSets: \"off\"}": false, "admission: {enabled: false}": false,
	} {
		if got := rendered(values, "admissionregistration.k8s.io/v1/MutatingAdmissionPolicy"); got != want {
			t.Errorf("%q renders the policy of DaemonSets: %t, want %t", values, got, want)
		}
	}
}

// forbidden are the verbs that lead to more rights than a role says.
var forbidden = []string{"*", "escalate", "bind", "impersonate", "deletecollection", "proxy", "use", "sign", "attest"}

// What the programs may do: no wildcard, no list of Secrets, none of the verbs
// and resources by which a program could take more.
func TestRights(t *testing.T) {
	objects := render(t, full)
	roles := map[string][]rbacv1.PolicyRule{}
	for _, r := range as[rbacv1.ClusterRole](t, objects, "ClusterRole") {
		roles["ClusterRole/"+r.Name] = r.Rules
	}
	for _, r := range as[rbacv1.Role](t, objects, "Role") {
		roles["Role/"+r.Namespace+"/"+r.Name] = r.Rules
	}
	wildcards, secretLists, forbiddenVerbs := 0, 0, 0
	for name, rules := range roles {
		for _, r := range rules {
			if slices.Contains(slices.Concat(r.APIGroups, r.Resources, r.ResourceNames), "*") || len(r.NonResourceURLs) > 0 {
				wildcards++
				t.Errorf("%s: wildcard in %+v", name, r)
			}
			for _, v := range r.Verbs {
				if slices.Contains(forbidden, v) {
					forbiddenVerbs++
					t.Errorf("%s: verb %s in %+v", name, v, r)
				}
			}
			for _, resource := range r.Resources {
				// The controllers make the key pairs of the job plugin ssh.
				makesKeys := name == "ClusterRole/isthmus:controllers-ssh" && slices.Equal(r.Verbs, []string{"get", "create"})
				// They keep the webhook's certificates in one Secret that the chart makes.
				keepsOwn := name == "Role/"+namespace+"/isthmus:controllers-webhook" && slices.Equal(r.ResourceNames, []string{"isthmus-admission"}) && slices.Equal(r.Verbs, []string{"get", "update"})
				if resource == "secrets" && !slices.Equal(r.Verbs, []string{"get"}) && !makesKeys && !keepsOwn {
					secretLists++
					t.Errorf("%s: %v of secrets", name, r.Verbs)
				}
				if slices.Contains([]string{"pods/exec", "pods/attach", "pods/portforward", "nodes/proxy", "roles", "clusterroles", "customresourcedefinitions"}, resource) {
					t.Errorf("%s: %s", name, resource)
				}
			}
		}
	}
	t.Logf("S6: %d roles, %d wildcards, %d rights on secrets beyond get, %d forbidden verbs", len(roles), wildcards, secretLists, forbiddenVerbs)
	if len(roles) < 9 {
		t.Errorf("only %d roles were rendered", len(roles))
	}

	// Secrets are read where somebody opted in, never everywhere.
	for _, b := range as[rbacv1.ClusterRoleBinding](t, objects, "ClusterRoleBinding") {
		for _, r := range roles["ClusterRole/"+b.RoleRef.Name] {
			if slices.Contains(r.Resources, "secrets") {
				t.Errorf("%s lets all Secrets of the cluster be read", b.Name)
			}
		}
		if len(b.Subjects) != 1 || b.Subjects[0].Kind != rbacv1.ServiceAccountKind || b.Subjects[0].Namespace != namespace {
			t.Errorf("%s: subjects %+v", b.Name, b.Subjects)
		}
	}
	where := []string{}
	for _, b := range as[rbacv1.RoleBinding](t, objects, "RoleBinding") {
		if b.RoleRef.Name == "isthmus:vnode-namespace" {
			where = append(where, b.Namespace)
		}
	}
	if !slices.Equal(where, []string{"default", "physics"}) {
		t.Errorf("virtual kubelets read Secrets in %v", where)
	}
}

// One account a program, and containers that can do next to nothing.
func TestPods(t *testing.T) {
	objects := render(t, full)
	accounts := map[string]bool{}
	for _, a := range as[corev1.ServiceAccount](t, objects, "ServiceAccount") {
		accounts[a.Name] = true
	}
	deployments := as[appsv1.Deployment](t, objects, "Deployment")
	if len(deployments) != 4 || len(accounts) != 3 {
		t.Fatalf("%d deployments, accounts %v", len(deployments), accounts)
	}
	for _, d := range deployments {
		pod := d.Spec.Template.Spec
		if !accounts[pod.ServiceAccountName] {
			t.Errorf("%s runs as %q", d.Name, pod.ServiceAccountName)
		}
		rooted := d.Name == "isthmus-vnode-rooted"
		if nonRoot := pod.SecurityContext.RunAsNonRoot; (nonRoot == nil || !*nonRoot) != rooted {
			t.Errorf("%s: runAsNonRoot %v", d.Name, nonRoot)
		}
		if pod.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			t.Errorf("%s: seccomp %+v", d.Name, pod.SecurityContext.SeccompProfile)
		}
		if pod.HostNetwork || pod.HostPID || pod.HostIPC {
			t.Errorf("%s shares the host's namespaces", d.Name)
		}
		for _, c := range pod.Containers {
			s := c.SecurityContext
			if *s.AllowPrivilegeEscalation || !*s.ReadOnlyRootFilesystem || !slices.Contains(s.Capabilities.Drop, "ALL") || s.Privileged != nil {
				t.Errorf("%s: %+v", d.Name, s)
			}
			if (len(s.Capabilities.Add) > 0) != rooted {
				t.Errorf("%s adds %v", d.Name, s.Capabilities.Add)
			}
			if c.Resources.Requests.Cpu().IsZero() || c.Resources.Limits.Memory().IsZero() {
				t.Errorf("%s has no requests or limits", d.Name)
			}
			if c.LivenessProbe == nil || c.ReadinessProbe == nil && c.StartupProbe == nil {
				t.Errorf("%s has no probes", d.Name)
			}
			if strings.HasPrefix(d.Name, "isthmus-vnode") && !strings.HasSuffix(c.Image, "@sha256:"+digest) {
				t.Errorf("%s: image %s, not by its digest", d.Name, c.Image)
			}
			for _, a := range c.Args {
				if strings.Contains(a, "pprof") || strings.HasPrefix(a, "--metrics") && !strings.Contains(a, "=127.0.0.1:") {
					t.Errorf("%s listens for everybody: %s", d.Name, a)
				}
			}
		}
	}
}

// Nothing is exposed, and what is not asked for is denied.
func TestNetwork(t *testing.T) {
	objects := render(t, full)
	for _, s := range as[corev1.Service](t, objects, "Service") {
		// By this one the API server reaches the webhook.
		if s.Name != "isthmus-admission" || s.Spec.Type != corev1.ServiceTypeClusterIP || len(s.Spec.Ports) != 1 || s.Spec.Selector["app.kubernetes.io/component"] != "controllers" {
			t.Errorf("service %s of type %s", s.Name, s.Spec.Type)
		}
	}
	policies := map[string]networkingv1.NetworkPolicySpec{}
	for _, p := range as[networkingv1.NetworkPolicy](t, objects, "NetworkPolicy") {
		policies[p.Name] = p.Spec
	}
	deny := policies["isthmus-deny"]
	if len(deny.Ingress)+len(deny.Egress) > 0 || len(deny.PolicyTypes) != 2 {
		t.Errorf("the default denies not: %+v", deny)
	}
	for _, d := range as[appsv1.Deployment](t, objects, "Deployment") {
		for k, v := range deny.PodSelector.MatchLabels {
			if d.Spec.Template.Labels[k] != v {
				t.Errorf("the default does not select %s", d.Name)
			}
		}
	}
	if got := policies["isthmus-webhook"].Ingress; len(got) != 1 || len(got[0].Ports) != 1 || got[0].Ports[0].Port.StrVal != "webhook" {
		t.Errorf("ingress to the webhook: %+v", got)
	}
	if got := policies["isthmus-kubelet"].Ingress; len(got) != 1 || len(got[0].Ports) != 1 || got[0].Ports[0].Port.StrVal != "kubelet" {
		t.Errorf("ingress to the virtual kubelet: %+v", got)
	}
}
