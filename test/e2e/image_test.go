package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/runtimes"
)

// imageJob is a Job of one task whose pods run an image.
func imageJob(jobName, runtime, image string, replicas int, container string) string {
	return fmt.Sprintf(`
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata: {name: %[1]s}
spec:
  minAvailable: %[4]d
  tasks:
  - name: task
    replicas: %[4]d
    template:
      metadata: {annotations: {isthmus.sh/runtime: %[2]s}}
      spec:
        restartPolicy: Never
        imagePullSecrets: [{name: puller}]
        volumes: [{name: cm, configMap: {name: words}}, {name: work, emptyDir: {}}]
        containers:
        - name: main
          image: "%[3]s"
          resources: {requests: {cpu: 1}}
          volumeMounts: [{name: cm, mountPath: /words}, {name: work, mountPath: /scratch/deep}]
%[5]s
`, jobName, runtime, image, replicas, container)
}

// Pods run images on real Slurm, from a registry that wants a secret and from an
// archive.
func TestImages(t *testing.T) {
	if os.Getenv("ISTHMUS_E2E_BATCH") != "" {
		t.Skip("SKIP: images are tested on Slurm") // the runtimes do not know the batch system
	}
	if err := runtimes.EnsureInstalled(t.Context(), os.Stdout); err != nil {
		t.Fatal(err)
	}
	registry := imagetest.NewRegistry(t, false, "puller", "canary-of-the-registry")
	first := imagetest.NewRegistry(t, false, "puller", "canary-of-another-registry")
	// The image says what runs: entrypoint, working directory and environment.
	image := registry.Push(t, "team/app:v1", imagetest.Shell(t, v1.Config{
		Entrypoint: []string{"/bin/sh", "-c"}, Cmd: []string{`cat /etc/image /words/key; pwd; echo "$FROM_IMAGE"; echo w > /scratch/deep/f && cat /scratch/deep/f; echo error >&2; exit 3`},
		WorkingDir: "/made", Env: []string{"PATH=/bin", "FROM_IMAGE=yes"}}))
	archives := t.TempDir()
	for _, dir := range []string{archives, filepath.Dir(archives)} {
		if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the job's user must read
			t.Fatal(err)
		}
	}
	tag, err := name.NewTag("app:v1")
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(archives, "app.tar")
	if err := tarball.WriteToFile(archive, tag, imagetest.Shell(t, v1.Config{Entrypoint: []string{"/bin/cat"}, Cmd: []string{"/etc/image"}})); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(archive, 0o644); err != nil { //nolint:gosec // the job's user must read
		t.Fatal(err)
	}
	patch, err := json.Marshal([]map[string]any{
		{"op": "replace", "path": "/spec/runtimes", "value": []string{"host", "charliecloud", "podman"}},
		{"op": "add", "path": "/spec/images", "value": map[string]any{"insecure": []string{registry.Host, first.Host}, "archives": []string{archives}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	kubectl(t, "patch", "batchcluster", environment.ClusterName, "--type=json", "-p="+string(patch))
	t.Cleanup(func() {
		kubectlAfter(t, "patch", "batchcluster", environment.ClusterName, "--type=json",
			`-p=[{"op": "replace", "path": "/spec/runtimes", "value": ["host"]}, {"op": "remove", "path": "/spec/images"}]`)
	})
	takenOver(t)
	for _, runtime := range []string{"charliecloud", "podman"} {
		t.Run(runtime, func(t *testing.T) {
			ns := namespace(t, account.Alice)
			puller(t, ns, registry)

			apply(t, ns, imageJob("own", runtime, image, 1, "          imagePullPolicy: Always"))
			phase(t, ns, "own", "Failed", 3*time.Minute)
			if got, want := kubectl(t, "logs", "-n", ns, "own-task-0"), "isthmus\nhello\n/made\nyes\nw\nerror\n"; !sameLines(got, want) {
				t.Errorf("log %q, want %q", got, want)
			}
			status := kubectl(t, "get", "pod", "own-task-0", "-n", ns, "-o",
				"jsonpath={.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].imageID}")
			if !strings.HasPrefix(status, "3 "+registry.Host+"/team/app@sha256:") {
				t.Errorf("exit code and image: %s", status)
			}

			registry.Reset()
			apply(t, ns, imageJob("gang", runtime, image, 4, `          command: [cat, /etc/image]`))
			phase(t, ns, "gang", "Completed", 3*time.Minute)
			if m, b := registry.Count("manifests"), registry.Count("blobs"); m > 1 || b > 0 {
				t.Errorf("a gang of four with a known image asked for %d manifests and %d blobs", m, b)
			}

			apply(t, ns, imageJob("file", runtime, "docker-archive:"+archive, 1, ""))
			phase(t, ns, "file", "Completed", 3*time.Minute)
			if got := kubectl(t, "logs", "-n", ns, "file-task-0"); got != "isthmus\n" {
				t.Errorf("log %q", got)
			}
		})
	}
	t.Run("pull on the login host", func(t *testing.T) { pullsFirst(t, first) })
}

// takenOver waits until the daemon serves the BatchCluster as it is now.
func takenOver(t *testing.T) {
	t.Helper()
	eventually(t, time.Minute, "the daemon has taken the BatchCluster over", func() (bool, string) {
		out := kubectl(t, "get", "batchcluster", environment.ClusterName, "-o",
			`jsonpath={.metadata.generation} {.status.conditions[?(@.type=="Ready")].observedGeneration} {.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}`)
		f := strings.Fields(out)
		return len(f) >= 3 && f[0] == f[1] && f[2] == "True", out
	})
}

// pullsFirst has images pulled on the login host: the pods tell that they wait for
// them, no job exists before they are there, and the job needs no registry.
func pullsFirst(t *testing.T, registry *imagetest.Registry) {
	kubectl(t, "patch", "batchcluster", environment.ClusterName, "--type=merge", `-p={"spec":{"images":{"pull":"login"}}}`)
	takenOver(t)
	ns := namespace(t, account.Alice)
	puller(t, ns, registry)
	image := registry.Push(t, "team/first:v1", imagetest.Shell(t, v1.Config{}))
	registry.Reset()
	hold := make(chan struct{})
	var once sync.Once
	release := func() { once.Do(func() { close(hold) }) }
	t.Cleanup(release) // before the registry's own end, which waits for its requests
	registry.Gate(func() { <-hold })
	reason := func(job, want string) {
		t.Helper()
		eventually(t, 2*time.Minute, job+" waits for "+want, func() (bool, string) {
			out := kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name="+job, "-o", "jsonpath={range .items[*]}{.status.containerStatuses[0].state.waiting} {end}")
			return strings.Contains(out, `"reason":"`+want+`"`), out
		})
	}
	jobs := func(job string) string {
		return strings.TrimSpace(kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name="+job, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/batch-job-id}`))
	}
	apply(t, ns, imageJob("first", "charliecloud", image, 2, `          command: [cat, /etc/image]`))
	reason("first", "Pulling")
	if got := jobs("first"); got != "" {
		t.Errorf("batch job %s exists before its image", got)
	}
	release()
	eventually(t, 2*time.Minute, "the batch job is submitted", func() (bool, string) { got := jobs("first"); return got != "", got })
	m, b := registry.Count("manifests"), registry.Count("blobs")
	debugsFirst(t, ns, image, registry)
	registry.Close() // the compute hosts reach no registry
	phase(t, ns, "first", "Completed", 3*time.Minute)
	if m != 1 || b != 3 {
		t.Errorf("a gang of two asked for %d manifests and %d blobs, want 1 and 3", m, b)
	}
	if got := kubectl(t, "logs", "-n", ns, "first-task-1"); got != "isthmus\n" {
		t.Errorf("log %q", got)
	}
	apply(t, ns, imageJob("none", "charliecloud", registry.Host+"/team/none:v1", 1, ""))
	reason("none", "ImagePullBackOff")
	events := kubectl(t, "get", "events", "-n", ns, "-o", "jsonpath={.items[*].message}")
	if got := jobs("none"); got != "" || !strings.Contains(events, "Failed to pull image") {
		t.Errorf("batch job %q of a pod without its image; events: %s", got, events)
	}
	kubectl(t, "delete", "jobs.batch.volcano.sh", "none", "-n", ns)
	eventually(t, 2*time.Minute, "the pod without an image is gone", func() (bool, string) {
		out := kubectl(t, "get", "pods", "-n", ns, "-l", "volcano.sh/job-name=none", "-o", "name")
		return strings.TrimSpace(out) == "", out
	})
}

// debugsFirst adds a container of an image of its own to a running pod: that image
// is pulled on the login host as well, and the job asks no registry for it.
func debugsFirst(t *testing.T, ns, image string, registry *imagetest.Registry) {
	tools := registry.Push(t, "team/tools:v1", imagetest.Shell(t, v1.Config{Env: []string{"TOOL=yes"}}))
	registry.Reset()
	hold := make(chan struct{})
	var once sync.Once
	release := func() { once.Do(func() { close(hold) }) }
	t.Cleanup(release)
	registry.Gate(func() { <-hold })
	apply(t, ns, imageJob("look", "charliecloud", image, 1, `          command: [sleep, "600"]`))
	phase(t, ns, "look", "Running", 3*time.Minute)
	kubectl(t, "debug", "-n", ns, "look-task-0", "--image="+tools, "--image-pull-policy=Always", "--container=tool", "--", "sh", "-c", `echo "$TOOL"`)
	eventually(t, 2*time.Minute, "the pod tells where the image is pulled", func() (bool, string) {
		out := kubectl(t, "get", "events", "-n", ns, "--field-selector=involvedObject.name=look-task-0", "-o", "jsonpath={.items[*].message}")
		return strings.Contains(out, fmt.Sprintf("Pulling image %q on the login host", tools)), out
	})
	state := func() string {
		return kubectl(t, "get", "pod", "look-task-0", "-n", ns, "-o", "jsonpath={.status.ephemeralContainerStatuses[*].state}")
	}
	if got := state(); strings.Contains(got, "running") || strings.Contains(got, "terminated") {
		t.Errorf("the container runs without its image: %s", got)
	}
	release()
	eventually(t, 2*time.Minute, "the added container has ended", func() (bool, string) {
		got := state()
		return strings.Contains(got, "terminated"), got
	})
	if got := kubectl(t, "logs", "-n", ns, "look-task-0", "-c", "tool"); got != "yes\n" {
		t.Errorf("log %q, state %s", got, state())
	}
	if n := registry.Count("manifests"); n != 1 {
		t.Errorf("%d requests for the manifest: the job has asked as well", n)
	}
	kubectl(t, "delete", "jobs.batch.volcano.sh", "look", "-n", ns)
}

// puller makes the pull secret of imageJob.
func puller(t *testing.T, ns string, registry *imagetest.Registry) {
	t.Helper()
	secret := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(secret, registry.Secret(), 0o600); err != nil {
		t.Fatal(err)
	}
	kubectl(t, "create", "secret", "generic", "puller", "-n", ns, "--type=kubernetes.io/dockerconfigjson", "--from-file=.dockerconfigjson="+secret)
	kubectl(t, "create", "configmap", "words", "-n", ns, "--from-literal=key=hello\n")
}

// sameLines compares texts whose lines come in an order that two streams do not fix.
func sameLines(a, b string) bool {
	count := map[string]int{}
	for l := range strings.Lines(a) {
		count[l]++
	}
	for l := range strings.Lines(b) {
		count[l]--
	}
	for _, n := range count {
		if n != 0 {
			return false
		}
	}
	return true
}
