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

// A Dataset that a gang waits for is copied to the cluster by a batch job there, under
// the account of its namespace, and says so. What the scheduler writes on the gang's
// PodGroup is written here.
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
	apply(t, ns, fmt.Sprintf(`
apiVersion: hpc.isthmus.sh/v1alpha1
kind: Dataset
metadata: {name: image-net}
spec:
  size: 4
  locations: [{nodes: {no-such-label: "true"}, path: %q}]
  staging:
    image: none
    command: [cp, -rT]
    args: [$(ISTHMUS_SOURCE_PATH), $(ISTHMUS_TARGET_PATH)]
    resources: {requests: {cpu: "1", memory: 64Mi}, limits: {cpu: "1", memory: 64Mi}}
    targets: [{cluster: %s, path: %q}]
---
apiVersion: scheduling.volcano.sh/v1beta1
kind: PodGroup
metadata: {name: waits}
spec: {minMember: 1}
`, from, environment.ClusterName, to))
	eventually(t, 2*time.Minute, "the copy is ready", func() (bool, string) {
		out := kubectl(t, "get", "dataset", "image-net", "-n", ns, "-o", "jsonpath={.status.copies}")
		if out == "" {
			// The scheduler takes away what it did not write.
			kubectl(t, "annotate", "--overwrite", "podgroup", "waits", "-n", ns, fmt.Sprintf(`isthmus.sh/staging={"image-net":%q}`, environment.ClusterName))
		}
		if strings.Contains(out, `"phase":"Failed"`) {
			t.Fatalf("the copy failed: %s", out)
		}
		return strings.Contains(out, `"phase":"Ready"`), out
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
