package e2e

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// Gangs that read a Dataset which is elsewhere wait for a copy of it: one batch job of the
// cluster makes it, under the account of the namespace, and then they start and find it. A
// copy that fails is told.
func TestDatasetIsCopied(t *testing.T) {
	ns := namespace(t, account.Alice)
	dir := openMarks(t)
	from, to := filepath.Join(dir, "a $(HOME) of data"), filepath.Join(dir, "copy")
	if err := os.Mkdir(from, 0o755); err != nil { //nolint:gosec // the job's user must read
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(from, "part"), []byte("data"), 0o644); err != nil { //nolint:gosec // the job's user must read
		t.Fatal(err)
	}
	dataset := func(name, program, retries string) string {
		return fmt.Sprintf(`
---
apiVersion: hpc.isthmus.sh/v1alpha1
kind: Dataset
metadata: {name: %s}
spec:
  size: 4
  locations: [{cluster: closed, path: %q}]
  staging:
    image: none
    command: [%s]
    args: [-rT, $(ISTHMUS_SOURCE_PATH), $(ISTHMUS_TARGET_PATH)]
    resources: {requests: {cpu: "1", memory: 64Mi}, limits: {cpu: "1", memory: 64Mi}}
    retries: %s
    targets: [{cluster: %s, path: %q}]
`, name, from, program, retries, environment.ClusterName, to)
	}
	reads := func(name, dataset, script string) string {
		return strings.Replace(job{Name: name, Replicas: 1, Script: script}.yaml(),
			"metadata:\n", "metadata:\n  annotations: {isthmus.sh/datasets: "+dataset+"}\n", 1)
	}
	apply(t, ns, dataset("image-net", "cp", "3")+dataset("lost", `"false"`, "0"))
	apply(t, ns, reads("one", "image-net", `cat "$ISTHMUS_DATASET_IMAGE_NET/part"`))
	apply(t, ns, reads("two", "image-net", `cat "$ISTHMUS_DATASET_IMAGE_NET/part"`))
	apply(t, ns, reads("never", "lost", "exit 1"))
	for _, name := range []string{"one", "two"} {
		phase(t, ns, name, "Completed", 2*time.Minute)
		if log := kubectl(t, "logs", "-n", ns, name+"-task-0"); log != "data" {
			t.Errorf("%s reads %q", name, log)
		}
	}
	copies := kubectl(t, "get", "dataset", "image-net", "-n", ns, "-o", "jsonpath={.status.copies}")
	if !strings.Contains(copies, `"phase":"Ready"`) || !strings.Contains(copies, `"attempts":1`) {
		t.Errorf("the copies are %s", copies)
	}
	eventually(t, time.Minute, "nobody asks for a copy of image-net any more", func() (bool, string) {
		out := kubectl(t, "get", "podgroup", "-n", ns, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/staging}`)
		return !strings.Contains(out, "image-net"), out
	})
	eventually(t, 2*time.Minute, "the gang whose copy fails says so", func() (bool, string) {
		out := kubectl(t, "get", "podgroup", "-n", ns, "-o", `jsonpath={.items[*].status.conditions[*].message}`)
		return strings.Contains(out, "dataset lost could not be copied to cluster "+environment.ClusterName+": "), out
	})
	if raw, err := os.ReadFile(filepath.Join(to, "part")); err != nil || string(raw) != "data" {
		t.Errorf("at the target is %q, %v", raw, err)
	}
	info, err := os.Stat(to)
	if err != nil {
		t.Fatal(err)
	}
	alice, err := user.Lookup(account.Alice)
	if err != nil {
		t.Fatal(err)
	}
	if s, ok := info.Sys().(*syscall.Stat_t); !ok || fmt.Sprint(s.Uid) != alice.Uid {
		t.Errorf("the copy is of user %d, want %s", s.Uid, alice.Uid)
	}
	if out := kubectl(t, "get", "datasets", "-n", ns); !strings.Contains(out, environment.ClusterName) || !strings.Contains(out, "Ready") {
		t.Errorf("kubectl get datasets shows\n%s", out)
	}
}
