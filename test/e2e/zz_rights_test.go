package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	schedconfig "github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/rights"
)

// elsewhere are rights that no record of this audit log shows, with the test that
// fails without them: the API server asks for some in the course of another
// request, and does not serve everything here.
var elsewhere = map[string]string{
	"update jobs/finalizers.batch.volcano.sh":                           "TestAllReduce: the plugin OwnerReferencesPermissionEnforcement lets nobody else own a Job's pods",
	"update cronjobs/finalizers.batch.volcano.sh":                       "this one: the plugin OwnerReferencesPermissionEnforcement lets nobody else own a CronJob's Jobs",
	"update jobflows/finalizers.flow.volcano.sh":                        "TestJobFlow: the plugin OwnerReferencesPermissionEnforcement lets nobody else own a JobFlow's Jobs",
	"update datasets/finalizers.hpc.isthmus.sh":                         "TestDatasetIsCopied: the plugin OwnerReferencesPermissionEnforcement lets nobody else own a Dataset's Jobs",
	"approve signers.certificates.k8s.io kubernetes.io/kubelet-serving": "TestServingCertificates: the plugin CertificateApproval lets nobody else approve",
	"list podgroups.scheduling.k8s.io":                                  "no API server of the tests has PodGroups of its own: scheduler/cache TestNativeGroup",
	"watch podgroups.scheduling.k8s.io":                                 "no API server of the tests has PodGroups of its own: scheduler/cache TestNativeGroup",
	"create pods/eviction":                                              "scheduler/driver TestPreemptionEvictsWholeGangAndKeepsTheRoom: nothing is preempted here",
	"patch resourceclaims/binding.resource.k8s.io":                      "TestClaims: the API server asks for it when devices are given to a claim",
	"patch podgroups/status.scheduling.k8s.io":                          "no API server of the tests has PodGroups of its own: scheduler/cache TestNativeGroup",
}

// The programs ask for nothing that their roles do not give, and their roles give
// nothing that they do not ask for, by the audit log of all tests before this
// one: it is the last, by the name of its file. What the other tests need only
// now and then is done here on purpose.
func TestRightsUsedAreRightsGranted(t *testing.T) {
	granted, err := shared.Rights(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	seldom(t)
	asked, err := shared.Requests()
	if err != nil {
		t.Fatal(err)
	}
	missing := asked.Missing(granted)
	for _, r := range missing {
		t.Errorf("denied %s", r)
	}
	others := asked.Elsewhere(granted)
	for _, r := range others {
		t.Errorf("allowed by none of the chart's roles: %s", r)
	}
	idle := slices.DeleteFunc(asked.Idle(granted), func(r rights.Right) bool {
		_, what, _ := strings.Cut(r.String(), ":isthmus-")
		_, what, _ = strings.Cut(what, ": ")
		_, known := elsewhere[what]
		return known
	})
	t.Logf("S6: %d requests, %d rights granted, %d denied, %d allowed by other roles, %d idle", asked.Count, len(granted), len(missing), len(others), len(idle))
	if why := notWhole(); why != "" {
		t.Logf("idle rights are no mistake here, because %s: %v", why, idle)
		return
	}
	for _, r := range idle {
		t.Errorf("granted and never used: %s", r)
	}
}

// notWhole says why the audit log does not hold what all tests did, "" if it does.
func notWhole() string {
	for _, name := range []string{"test.run", "test.skip"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return fmt.Sprintf("-%s %s chooses tests", name, f.Value)
		}
	}
	if shared.Batch != environment.BatchSlurm {
		return "the batch system is " + shared.Batch + ", and some tests are about Slurm"
	}
	return ""
}

// seldom does what the programs need rights for and no other test is sure to do.
func seldom(t *testing.T) {
	t.Helper()
	ns := namespace(t, account.Alice)
	// As on an API server that does not stream its lists, and with an election.
	listing := []string{"KUBE_FEATURE_WatchListClient=false"}
	measures := filepath.Join(t.TempDir(), "volcano-scheduler.conf")
	if err := os.WriteFile(measures, []byte(schedconfig.Standard+"  - name: usage\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, flags := range map[string][]string{
		"controllers": {"--leader-elect=true", "--leader-election-namespace=" + environment.ServiceAccountsNamespace},
		"scheduler":   {"--scheduler-conf=" + measures, "--leader-elect=true", "--leader-elect-namespace=" + environment.ServiceAccountsNamespace},
		"vnode":       nil,
	} {
		var argv []string
		for _, p := range shared.Processes() {
			if p.Name == name {
				argv = slices.Clone(p.Argv)
			}
		}
		if err := shared.Restart(name, append(slices.Clone(argv), flags...), listing); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := shared.Restart(name, argv, nil); err != nil {
				t.Error(err)
			}
		})
	}
	for _, name := range []string{"isthmus-controllers", "isthmus-scheduler"} {
		eventually(t, time.Minute, name+" is elected, and again", func() (bool, string) {
			out, err := tryKubectl(t, "get", "lease", name, "-n", environment.ServiceAccountsNamespace, "-o", "jsonpath={.spec.holderIdentity} {.spec.acquireTime} {.spec.renewTime}")
			words := strings.Fields(out)
			return len(words) == 3 && words[1] != words[2], fmt.Sprint(out, err)
		})
	}
	seldomControllers(t, ns)
	seldomScheduler(t, ns)
	seldomVnode(t)
	eventually(t, 3*time.Minute, "the CronJob made a Job and shows it", func() (bool, string) {
		out := kubectl(t, "get", "cronvcjob", "minutely", "-n", ns, "-o", "jsonpath={.status}")
		return strings.Contains(out, "lastScheduleTime"), out
	})
	kubectl(t, "delete", "cronvcjob", "minutely", "-n", ns)
}

// A queue that every cluster has; a Job that grows to where a stranger has its pod's name and shrinks again, one
// with a claim, and one that is removed once it has ended.
func seldomControllers(t *testing.T, ns string) {
	t.Helper()
	apply(t, ns, `
apiVersion: batch.volcano.sh/v1alpha1
kind: CronJob
metadata: {name: minutely}
spec:
  schedule: "* * * * *"
  suspend: false
  jobTemplate:
    spec:
      minAvailable: 1
      schedulerName: nobody
      tasks: [{name: t, replicas: 1, template: {spec: {restartPolicy: Never, containers: [{name: main, image: none}]}}}]
`)
	// An administrator who takes the policy and the webhook's say away may delete it,
	// and it comes back.
	guard := func(action string) []string {
		return []string{"patch", "validatingadmissionpolicybinding", "isthmus-volcano-standing-queues", "--type=merge", "-p", `{"spec":{"validationActions":["` + action + `"]}}`}
	}
	judge := func(patch string) []string {
		return []string{"patch", "validatingwebhookconfiguration", "isthmus-volcano", "--type=json", "-p", patch}
	}
	kubectl(t, guard("Audit")...)
	t.Cleanup(func() { kubectlAfter(t, guard("Deny")...) })
	kubectl(t, judge(`[{"op":"add","path":"/webhooks/0/matchConditions","value":[{"name":"no-queues","expression":"request.resource.resource != 'queues'"}]}]`)...)
	t.Cleanup(func() { kubectlAfter(t, judge(`[{"op":"remove","path":"/webhooks/0/matchConditions"}]`)...) })
	eventually(t, time.Minute, "the queue default may be deleted", func() (bool, string) {
		out, err := tryKubectl(t, "delete", "queue", "default", "--wait=false")
		return err == nil, fmt.Sprint(out, err)
	})
	eventually(t, time.Minute, "the queue default is made again", func() (bool, string) {
		out := kubectl(t, "get", "queue", "default", "--ignore-not-found", "-o", "name")
		return out != "", out
	})
	kubectl(t, "create", "-n", ns, "-f", manifestFile(t, forged(t, "grows-task-1", nil, nil)))
	apply(t, ns, job{Name: "grows", Replicas: 1, Script: "exec sleep 600", Spec: "  plugins: {svc: []}"}.yaml())
	phase(t, ns, "grows", "Running", 2*time.Minute)
	for _, n := range []int{2, 1} {
		kubectl(t, "patch", "vcjob", "grows", "-n", ns, "--type=json", "-p", fmt.Sprintf(`[{"op":"replace","path":"/spec/tasks/0/replicas","value":%d}]`, n))
		eventually(t, time.Minute, fmt.Sprintf("Job grows has seen that it is of %d", n), func() (bool, string) {
			out := kubectl(t, "get", "vcjob", "grows", "-n", ns, "-o", "jsonpath={.status.state}")
			return strings.Contains(out, "grows-task-1") == (n == 2), out
		})
	}
	apply(t, ns, job{Name: "widens", Replicas: 1, Script: "exec sleep 600", Spec: "  plugins: {svc: []}"}.yaml())
	phase(t, ns, "widens", "Running", 2*time.Minute)
	kubectl(t, "patch", "vcjob", "widens", "-n", ns, "--type=json", "-p", `[{"op":"replace","path":"/spec/tasks/0/replicas","value":2}]`)
	eventually(t, time.Minute, "the ConfigMap of Job widens has its second host", func() (bool, string) {
		out := kubectl(t, "get", "configmap", "widens-svc", "-n", ns, "-o", "jsonpath={.data}")
		return strings.Contains(out, "widens-task-1"), out
	})
	kubectl(t, "delete", "vcjob", "widens", "-n", ns)
	apply(t, ns, job{Name: "claims", Replicas: 1, Script: "true", Spec: "  volumes: [{mountPath: /data, volumeClaim: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}}]"}.yaml())
	eventually(t, time.Minute, "a claim was made", func() (bool, string) {
		out := kubectl(t, "get", "pvc", "-n", ns, "-o", "name")
		return out != "", out
	})
	gated := job{Name: "gated", Replicas: 1, Script: "exec sleep 600"}.yaml()
	apply(t, ns, strings.Replace(gated, "    template:\n", "    template:\n      metadata: {annotations: {scheduling.volcano.sh/queue-allocation-gate: \"true\"}}\n", 1))
	phase(t, ns, "gated", "Running", 2*time.Minute)
	kubectl(t, "delete", "vcjob", "gated", "-n", ns)
	apply(t, ns, job{Name: "ends", Replicas: 1, Script: "true", Spec: "  ttlSecondsAfterFinished: 1"}.yaml())
	eventually(t, 2*time.Minute, "a Job is removed once it has ended", func() (bool, string) {
		out := kubectl(t, "get", "vcjob", "ends", "-n", ns, "--ignore-not-found", "-o", "jsonpath={.status.state}")
		return out == "", out
	})
	kubectl(t, "delete", "vcjob", "grows", "claims", "-n", ns)
	// In this namespace the plugin ssh may make its key pair.
	apply(t, "default", job{Name: "keys", Replicas: 1, Script: "true", Spec: "  plugins: {ssh: []}"}.yaml())
	t.Cleanup(func() { kubectlAfter(t, "delete", "vcjob", "keys", "-n", "default", "--ignore-not-found") })
	eventually(t, time.Minute, "Job keys has a key pair", func() (bool, string) {
		out := kubectl(t, "get", "secrets", "-n", "default", "-o", "name")
		return strings.Contains(out, "keys"), out
	})
	kubectl(t, "delete", "vcjob", "keys", "-n", "default")
	apply(t, ns, `
apiVersion: bus.volcano.sh/v1alpha1
kind: Command
metadata: {name: late}
action: AbortJob
target: {apiVersion: batch.volcano.sh/v1alpha1, kind: Job, name: ends, uid: gone}
`)
	// A flow that makes two Jobs at once tells of it in one event, twice.
	var flow strings.Builder
	for _, name := range []string{"left", "right"} {
		flow.WriteString("---\napiVersion: flow.volcano.sh/v1alpha1\nkind: JobTemplate\nmetadata: {name: " + name + "}\nspec:\n" + specOf(job{Name: "x", Replicas: 1, Script: "true"}.yaml()))
	}
	apply(t, ns, flow.String()+"---\napiVersion: flow.volcano.sh/v1alpha1\nkind: JobFlow\nmetadata: {name: fork}\nspec: {jobRetainPolicy: delete, flows: [{name: left}, {name: right}]}\n")
	eventually(t, time.Minute, "the event tells of both Jobs", func() (bool, string) {
		out := kubectl(t, "get", "events.events.k8s.io", "-n", ns, "-o", `jsonpath={range .items[*]}{.regarding.name} {.reason} {.series.count}{"\n"}{end}`)
		return strings.Contains(out, "fork SuccessfulCreate 2\n"), out
	})
	kubectl(t, "delete", "jobflow", "fork", "-n", ns)
	// What is beneath a queue is closed with it.
	t.Cleanup(func() { kubectlAfter(t, "delete", "queue", "seldom-child", "seldom-parent", "--ignore-not-found") })
	apply(t, ns, `
apiVersion: scheduling.volcano.sh/v1beta1
kind: Queue
metadata: {name: seldom-parent}
spec: {weight: 1, parent: root}
---
apiVersion: scheduling.volcano.sh/v1beta1
kind: Queue
metadata: {name: seldom-child}
spec: {weight: 1, parent: seldom-parent}
`)
	apply(t, ns, `
apiVersion: bus.volcano.sh/v1alpha1
kind: Command
metadata: {name: close}
action: CloseQueue
target: {apiVersion: scheduling.volcano.sh/v1beta1, kind: Queue, name: seldom-parent, uid: `+kubectl(t, "get", "queue", "seldom-parent", "-o", "jsonpath={.metadata.uid}")+`}
`)
	eventually(t, time.Minute, "the queue beneath is marked", func() (bool, string) {
		out := kubectl(t, "get", "queue", "seldom-child", "-o", "json")
		return strings.Contains(out, "closed-by-parent"), out
	})
	eventually(t, time.Minute, "a Command for a Job that is gone is removed", func() (bool, string) {
		out := kubectl(t, "get", "commands.bus.volcano.sh", "-n", ns, "-o", "name")
		return out == "", out
	})
}

// A gang that fits nowhere loses its conditions and is told so a second time; a
// HyperNode gets the number of its nodes.
func seldomScheduler(t *testing.T, ns string) {
	t.Helper()
	apply(t, ns, job{Name: "huge", Replicas: 1, Script: "true", CPU: "9999"}.yaml())
	look := func() (string, string) {
		// By hand: a filter fails where a PodGroup that was just let in has no condition yet.
		out := kubectl(t, "get", "podgroup", "-n", ns, "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.conditions[*].type}{"\n"}{end}`)
		for line := range strings.Lines(out) {
			if words := strings.Fields(line); len(words) > 1 && strings.HasPrefix(words[0], "huge-") && words[1] == "Unschedulable" {
				return words[0], out
			}
		}
		return "", out
	}
	group := ""
	eventually(t, time.Minute, "a gang does not fit", func() (bool, string) { group, _ = look(); return group != "", group })
	kubectl(t, "patch", "podgroup", group, "-n", ns, "--type=merge", "-p", `{"status":{"conditions":null}}`)
	eventually(t, time.Minute, "its event is told again", func() (bool, string) {
		out := kubectl(t, "get", "events", "-n", ns, "--field-selector=involvedObject.name="+group, "-o", "jsonpath={range .items[*]}{.count} {.message}\n{end}")
		return strings.Contains("\n"+out, "\n2 "), out
	})
	kubectl(t, "delete", "vcjob", "huge", "-n", ns)
	apply(t, ns, `
apiVersion: topology.volcano.sh/v1alpha1
kind: HyperNode
metadata: {name: seldom}
spec: {tier: 1, members: [{type: Node, selector: {exactMatch: {name: `+shared.Nodes[0]+`}}}]}
`)
	t.Cleanup(func() { kubectlAfter(t, "delete", "hypernode", "seldom") })
	eventually(t, time.Minute, "the HyperNode has its number of nodes", func() (bool, string) {
		out := kubectl(t, "get", "hypernode", "seldom", "-o", "jsonpath={.status}")
		return strings.Contains(out, `"nodeCount":1`), out
	})
	// One that is over at once keeps nobody out.
	apply(t, ns, `
apiVersion: hpc.isthmus.sh/v1alpha1
kind: Reservation
metadata: {name: seldom}
spec: {duration: 1ms, nodes: {names: [`+shared.Nodes[0]+`]}, owners: {queues: [default]}}
`)
	t.Cleanup(func() { kubectlAfter(t, "delete", "reservation", "seldom") })
	eventually(t, time.Minute, "the Reservation is over", func() (bool, string) {
		out := kubectl(t, "get", "reservation", "seldom", "-o", "jsonpath={.status}")
		return strings.Contains(out, `"Expired"`), out
	})
}

// A BatchCluster becomes wrong in one way, another, and the first again; and a
// monitor calls the kubelet API with a token.
func seldomVnode(t *testing.T) {
	t.Helper()
	node := shared.Nodes[0]
	if err := shared.CheckNodes(t.Context()); err != nil {
		t.Fatal(err)
	}
	var cluster hpcv1alpha1.BatchCluster
	get := func() {
		t.Helper()
		if err := shared.Client().Get(t.Context(), client.ObjectKey{Name: environment.ClusterName}, &cluster); err != nil {
			t.Fatal(err)
		}
	}
	get()
	good := cluster.Spec.Staging.Directory
	set := func(directory string) {
		t.Helper()
		kubectl(t, "patch", "batchcluster", environment.ClusterName, "--type=merge", "-p", `{"spec":{"staging":{"directory":`+strconv.Quote(directory)+`}}}`)
	}
	t.Cleanup(func() {
		kubectlAfter(t, "patch", "batchcluster", environment.ClusterName, "--type=merge", "-p", `{"spec":{"staging":{"directory":`+strconv.Quote(good)+`}}}`)
	})
	for i, wrong := range []string{"/wrong/../one", "/wrong/../two", "/wrong/../one"} {
		set(wrong)
		eventually(t, time.Minute, "the nodes say that "+wrong+" is wrong", func() (bool, string) {
			out := kubectl(t, "get", "events", "-n", "default", "--field-selector=reason=InvalidConfiguration", "-o", "jsonpath={range .items[*]}{.count} {.message}\n{end}")
			for line := range strings.Lines(out) {
				if strings.Contains(line, wrong) && (i < 2 || !strings.HasPrefix(line, "1 ")) {
					return true, out
				}
			}
			return false, out
		})
	}
	set(good)

	kubectl(t, "create", "serviceaccount", "monitor", "-n", "default")
	t.Cleanup(func() { kubectlAfter(t, "delete", "serviceaccount", "monitor", "-n", "default") })
	token := strings.TrimSpace(kubectl(t, "create", "token", "monitor", "-n", "default"))
	authority, err := os.ReadFile(filepath.Join(shared.Dir, "control-plane", "pki", "kubelet-ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}}
	defer transport.CloseIdleConnections()
	ask := func() (int, error) {
		port := kubectl(t, "get", "node", node, "-o", "jsonpath={.status.daemonEndpoints.kubeletEndpoint.Port}")
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://127.0.0.1:"+port+"/metrics/resource/"+node, nil)
		if err != nil {
			return 0, err
		}
		req.Header.Set("Authorization", "Bearer "+token)
		answer, err := (&http.Client{Transport: transport, Timeout: 20 * time.Second}).Do(req)
		if err != nil {
			return 0, err
		}
		return answer.StatusCode, answer.Body.Close()
	}
	eventually(t, time.Minute, "a monitor without rights is refused", func() (bool, string) {
		code, err := ask()
		return code == http.StatusForbidden, fmt.Sprint(code, err)
	})
}
