package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// told waits until the events of a namespace hold all words.
func told(t *testing.T, ns string, words ...string) {
	t.Helper()
	eventually(t, 45*time.Second, fmt.Sprintf("an event says %q", words), func() (bool, string) {
		out := kubectl(t, "get", "events", "-n", ns, "-o", "jsonpath={range .items[*]}{.reason}: {.message}\n{end}")
		for _, w := range words {
			if !strings.Contains(out, w) {
				return false, out
			}
		}
		return true, out
	})
}

// Wrong input gives an event that names what to do; what can be mended later
// starts once it is.
func TestWrongInput(t *testing.T) {
	t.Run("no account mapping", func(t *testing.T) {
		ns := namespace(t, "")
		apply(t, ns, job{Name: "who", Replicas: 1, Script: "id -un"}.yaml())
		told(t, ns, "spec.accounts", ns)
		kubectl(t, "label", "namespace", ns, "test-user="+account.Bob)
		phase(t, ns, "who", "Completed", 2*time.Minute)
		if got := strings.TrimSpace(kubectl(t, "logs", "-n", ns, "who-task-0")); got != account.Bob {
			t.Errorf("the job ran as %q", got)
		}
	})
	t.Run("missing ConfigMap", func(t *testing.T) {
		ns := namespace(t, account.Alice)
		apply(t, ns, job{Name: "needs", Replicas: 1, Script: `echo "$WORD"`,
			Extra: "          env: [{name: WORD, valueFrom: {configMapKeyRef: {name: later, key: word}}}]"}.yaml())
		told(t, ns, "later")
		kubectl(t, "create", "configmap", "later", "-n", ns, "--from-literal=word=hello")
		phase(t, ns, "needs", "Completed", 2*time.Minute)
		if got := kubectl(t, "logs", "-n", ns, "needs-task-0"); got != "hello\n" {
			t.Errorf("log is %q", got)
		}
	})
	t.Run("image entrypoint on runtime host", func(t *testing.T) {
		ns := namespace(t, account.Alice)
		apply(t, ns, `
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata: {name: image}
spec:
  minAvailable: 1
  tasks:
  - name: task
    replicas: 1
    template:
      spec:
        restartPolicy: Never
        containers: [{name: main, image: "docker.io/library/busybox:1", resources: {requests: {cpu: 1}}}]
`)
		told(t, ns, "spec.containers[0].command")
	})
	t.Run("unknown partition", func(t *testing.T) {
		kubectl(t, "apply", "-f", writeFile(t, `
apiVersion: hpc.isthmus.sh/v1alpha1
kind: BatchCluster
metadata: {name: wrong}
spec:
  type: banana
  accounts: [{namespaceSelector: {}, user: nobody-at-all}]
  staging: {directory: /tmp}
`), "--dry-run=none", "--validate=false", "--ignore-not-found")
	})
}

func writeFile(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "f.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
