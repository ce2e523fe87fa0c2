package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// On an ordinary node a pod gets the volume and the device that it claims before it
// is bound, with the rights of the chart and by Kubernetes' own controllers; a volume
// that has to be made is asked for on the pod's node.
func TestClaims(t *testing.T) {
	ns := namespace(t, account.Alice)
	const node = "e2e-claims"
	gone := func(kind, name string) {
		t.Cleanup(func() { kubectlAfter(t, "delete", kind, name, "--ignore-not-found", "--wait=false") })
	}
	for kind, names := range map[string][]string{
		"node": {node}, "storageclass": {"e2e-local", "e2e-made"}, "pv": {"e2e-claims"}, "deviceclass": {"e2e-device"}, "resourceslice": {"e2e-claims"},
	} {
		for _, n := range names {
			gone(kind, n)
		}
	}
	apply(t, ns, `
apiVersion: v1
kind: Node
metadata: {name: e2e-claims, labels: {kubernetes.io/hostname: e2e-claims}}
spec: {taints: [{key: e2e.isthmus.sh/claims, effect: NoSchedule}]}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: e2e-local}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: e2e-made}
provisioner: e2e.example.com
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-claims}
spec:
  capacity: {storage: 2Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: e2e-local
  local: {path: /nowhere}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [e2e-claims]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: local}
spec: {storageClassName: e2e-local, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: made}
spec: {storageClassName: e2e-made, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: resource.k8s.io/v1
kind: DeviceClass
metadata: {name: e2e-device}
spec: {selectors: [{cel: {expression: 'device.driver == "e2e.example.com"'}}]}
---
apiVersion: resource.k8s.io/v1
kind: ResourceSlice
metadata: {name: e2e-claims}
spec:
  driver: e2e.example.com
  nodeName: e2e-claims
  pool: {name: e2e-claims, generation: 1, resourceSliceCount: 1}
  devices: [{name: dev-0}]
---
apiVersion: resource.k8s.io/v1
kind: ResourceClaimTemplate
metadata: {name: one}
spec: {spec: {devices: {requests: [{name: device, exactly: {deviceClassName: e2e-device}}]}}}
`)
	ready := func() {
		// It has no kubelet: its conditions are ours to renew.
		now := time.Now().UTC().Format(time.RFC3339)
		kubectl(t, "patch", "node", node, "--subresource=status", "--type=merge", "-p", `{"status":{"capacity":{"cpu":"4","pods":"10"},"allocatable":{"cpu":"4","pods":"10"},
"conditions":[{"type":"Ready","status":"True","reason":"Test","lastHeartbeatTime":"`+now+`","lastTransitionTime":"`+now+`"}]}}`)
	}
	ready()
	pod := func(name, claims string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  schedulerName: isthmus
  nodeSelector: {kubernetes.io/hostname: e2e-claims}
  tolerations: [{operator: Exists}]
  containers: [{name: main, image: none, resources: {requests: {cpu: 100m}}}]
  %s
`, name, claims)
	}
	t.Cleanup(func() {
		kubectlAfter(t, "delete", "pods", "--all", "-n", ns, "--force", "--grace-period=0", "--wait=false")
	})
	apply(t, ns, pod("has-both", `volumes: [{name: data, persistentVolumeClaim: {claimName: local}}]
  resourceClaims: [{name: device, resourceClaimTemplateName: one}]`))
	apply(t, ns, pod("waits", `volumes: [{name: data, persistentVolumeClaim: {claimName: made}}]`))
	eventually(t, 2*time.Minute, "the pod is bound with its volume and its device", func() (bool, string) {
		ready()
		out := kubectl(t, "get", "pod", "has-both", "-n", ns, "-o", "jsonpath={.spec.nodeName}") + " " +
			kubectl(t, "get", "pvc", "local", "-n", ns, "-o", "jsonpath={.status.phase} {.spec.volumeName}") + " " +
			kubectl(t, "get", "resourceclaims", "-n", ns, "-o", "jsonpath={.items[*].status.allocation.devices.results[*].device} {.items[*].status.reservedFor[*].name}")
		return out == "e2e-claims Bound e2e-claims dev-0 has-both", out
	})
	eventually(t, time.Minute, "a volume is asked for on the node", func() (bool, string) {
		ready()
		out := kubectl(t, "get", "pvc", "made", "-n", ns, "-o", `jsonpath={.metadata.annotations.volume\.kubernetes\.io/selected-node}`)
		return out == node, out
	})
	if out := kubectl(t, "get", "pod", "waits", "-n", ns, "-o", "jsonpath={.spec.nodeName}"); strings.TrimSpace(out) != "" {
		t.Errorf("a pod whose volume is not made is bound to %s", out)
	}
}
