package e2e

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/fetch"
)

// canaries are words that stand in a pod where secrets stand, by the place.
type canaries map[string]string

func (c canaries) put(place string) string {
	word := fmt.Sprintf("canary%02dx%s", len(c), strings.Repeat("q", 6))
	c[place] = word
	return word
}

// found lists the places whose words are in data, as they are or in base64.
func (c canaries) found(data []byte) []string {
	var out []string
	for place, word := range c {
		encoded := base64.RawStdEncoding.EncodeToString([]byte(word)) // the last sign depends on what follows
		if bytes.Contains(data, []byte(word)) || bytes.Contains(data, []byte(encoded[:len(encoded)-1])) {
			out = append(out, place)
		}
	}
	slices.Sort(out)
	return out
}

// What is secret in a pod is nowhere but in the pod: not in logs, events,
// measurements, command lines, environments of others, records of the batch system
// or objects of the API, and not in files once the pod is gone.
func TestSecretsStayInThePod(t *testing.T) {
	ns := namespace(t, account.Alice)
	kubectl(t, "label", "namespace", ns, "test-tokens=yes")
	words := canaries{}
	apply(t, ns, fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData:
  env: %s
  file: %s
  sub: %s
  projected: %s
  init: %s
  sidecar: %s
  probe: %s
  hook: %s
  expanded: %s
`, words.put("variable"), words.put("file"), words.put("subPath"), words.put("projected file"), words.put("variable of an init container"),
		words.put("variable of a sidecar"), words.put("variable of a probe"), words.put("variable of a hook"), words.put("expanded variable")))
	apply(t, ns, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: all}\nstringData: {ALL_ONE: %s, ALL_TWO: %s}\n", words.put("envFrom"), words.put("envFrom with a prefix")))
	apply(t, ns, fmt.Sprintf("apiVersion: v1\nkind: Secret\nmetadata: {name: pull}\ntype: kubernetes.io/dockerconfigjson\nstringData: {.dockerconfigjson: '{\"auths\":{\"r.example\":{\"auth\":\"%s\"}}}'}\n", words.put("imagePullSecrets")))
	apply(t, ns, fmt.Sprintf("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: words}\ndata: {env: %s, file: %s}\n", words.put("variable from a ConfigMap"), words.put("file of a ConfigMap")))
	literal := words.put("variable in the manifest")
	stdin, said, written := words.put("input of exec"), words.put("what a container says"), words.put("file that a container writes")
	apply(t, ns, job{Name: "discreet", Replicas: 1,
		Script: `cat /keys/file > /scratch/copy; base64 -d < /scratch/said; base64 -d < /scratch/written > /scratch/kept; while :; do sleep 1; done`,
		Pod: `        imagePullSecrets: [{name: pull}]
        volumes:
        - {name: keys, secret: {secretName: keys, items: [{key: file, path: file}, {key: sub, path: sub}]}}
        - {name: words, configMap: {name: words}}
        - {name: scratch, emptyDir: {}}
        - {name: mixed, projected: {sources: [{secret: {name: keys, items: [{key: projected, path: p}]}}, {serviceAccountToken: {path: token, audience: vault}}]}}
        initContainers:
        - name: prepares
          image: none
          command: ["/bin/sh", "-c", "printf %s ` + base64Of(said) + ` > /scratch/said; printf %s ` + base64Of(written) + ` > /scratch/written"]
          env: [{name: SECRET, valueFrom: {secretKeyRef: {name: keys, key: init}}}]
          volumeMounts: [{name: scratch, mountPath: /scratch}]
        - name: beside
          image: none
          restartPolicy: Always
          command: ["/bin/sh", "-c", "while :; do sleep 1; done"]
          env: [{name: SECRET, valueFrom: {secretKeyRef: {name: keys, key: sidecar}}}]`,
		Extra: `          envFrom: [{secretRef: {name: all}}, {prefix: P_, secretRef: {name: all}}]
          env:
          - {name: SECRET, valueFrom: {secretKeyRef: {name: keys, key: env}}}
          - {name: PROBED, valueFrom: {secretKeyRef: {name: keys, key: probe}}}
          - {name: HOOKED, valueFrom: {secretKeyRef: {name: keys, key: hook}}}
          - {name: PLAIN, valueFrom: {secretKeyRef: {name: keys, key: expanded}}}
          - {name: EXPANDED, value: "of $(PLAIN)"}
          - {name: CONFIGURED, valueFrom: {configMapKeyRef: {name: words, key: env}}}
          - {name: LITERAL, value: "` + literal + `"}
          livenessProbe: {periodSeconds: 1, exec: {command: ["/bin/sh", "-c", "test -n \"$PROBED\""]}}
          lifecycle: {postStart: {exec: {command: ["/bin/sh", "-c", "test -n \"$HOOKED\""]}}}
          volumeMounts:
          - {name: keys, mountPath: /keys}
          - {name: keys, mountPath: /one, subPath: sub}
          - {name: words, mountPath: /words}
          - {name: scratch, mountPath: /scratch}
          - {name: mixed, mountPath: /mixed}`}.yaml())
	const pod = "discreet-task-0"
	running(t, ns, pod)
	logged(t, ns, pod, said, time.Minute)
	// They are all there, or it would prove nothing that they are not elsewhere.
	in := kubectl(t, "exec", "-n", ns, pod, "--", "/bin/sh", "-c", "env; cat /keys/* /one /words/* /mixed/p /scratch/kept")
	for _, place := range []string{"variable", "file", "subPath", "projected file", "variable of a probe", "variable of a hook", "expanded variable", "envFrom",
		"envFrom with a prefix", "variable from a ConfigMap", "file of a ConfigMap", "variable in the manifest", "file that a container writes"} {
		if !strings.Contains(in, words[place]) {
			t.Errorf("the pod has no %s", place)
		}
	}
	words["bound token"] = strings.TrimSpace(kubectl(t, "exec", "-n", ns, pod, "--", "cat", "/mixed/token"))
	words["service-account token"] = strings.TrimSpace(kubectl(t, "exec", "-n", ns, pod, "--", "cat", "/var/run/secrets/kubernetes.io/serviceaccount/token"))
	cmd := here(t).KubectlCommand(t.Context(), "exec", "-i", "-n", ns, pod, "--", "cat")
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.Output(); err != nil || string(out) != stdin {
		t.Fatalf("exec: %v, %q", err, out)
	}
	if len(words) < 20 {
		t.Fatalf("%d places", len(words))
	}

	staged := map[string]bool{} // where they have to be: the search would find them
	lookIn(t, here(t).Staging, "", func(_ string, data []byte) {
		for _, place := range words.found(data) {
			staged[place] = true
		}
	})
	if len(staged) < 12 {
		t.Errorf("the search finds %d secrets in the user's own files: %v", len(staged), staged)
	}

	hits, looked := 0, 0
	look := func(where string, data []byte, but ...string) {
		t.Helper()
		looked++
		for _, place := range words.found(data) {
			if !slices.Contains(but, place) {
				hits++
				t.Errorf("%s holds the %s", where, place)
			}
		}
	}
	for _, p := range processes(t) {
		if p.container { // the pod's own
			continue
		}
		look("the command line of process "+p.name, p.cmdline)
		look("the environment of process "+p.name, p.environ)
	}
	jobs, err := here(t).BatchJobs(t.Context())
	if err != nil || len(jobs) == 0 {
		t.Fatalf("batch jobs: %v, %v", jobs, err)
	}
	for _, j := range jobs {
		text, err := here(t).ShowBatchJob(t.Context(), j.ID)
		if err == nil { // it may be forgotten by now
			look("what the batch system says of job "+j.ID, []byte(text))
		}
	}
	lookIn(t, here(t).Slurm().Dir, here(t).Staging, func(file string, data []byte) { look("file "+file, data) })
	look("the events", []byte(kubectl(t, "get", "events", "-A", "-o", "yaml")))
	look("the nodes", []byte(kubectl(t, "get", "nodes", "-o", "yaml")))
	look("the objects", []byte(kubectl(t, "get", "pods,podgroups,vcjob,batchclusters", "-A", "-o", "yaml")),
		"variable in the manifest", "what a container says", "file that a container writes") // these stand there
	look("the measurements", measurements(t))
	kubectl(t, "delete", "vcjob", "discreet", "-n", ns)
	eventually(t, 90*time.Second, "the pod is gone", func() (bool, string) {
		out, err := tryKubectl(t, "get", "pod", pod, "-n", ns, "--ignore-not-found")
		return err == nil && out == "", out
	})
	eventually(t, 90*time.Second, "none of its files is left", func() (bool, string) {
		var left []string
		lookIn(t, filepath.Dir(here(t).Staging), "", func(file string, data []byte) {
			if len(words.found(data)) > 0 {
				left = append(left, file)
			}
		})
		return len(left) == 0, strings.Join(left, " ")
	})
	for _, file := range here(t).LogFiles() {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		look("log "+file, data)
	}
	t.Logf("S3: %d secrets, %d places looked at, %d hits", len(words), looked, hits)
}

func base64Of(word string) string { return base64.StdEncoding.EncodeToString([]byte(word + "\n")) }

// proc is a process of this machine.
type proc struct {
	name             string
	cmdline, environ []byte
	container        bool // a container's own, which runs as the user
}

// processes lists those that are there now.
func processes(t *testing.T) []proc {
	t.Helper()
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil || len(dirs) < 10 {
		t.Fatalf("%d processes, %v", len(dirs), err)
	}
	var out []proc
	for _, dir := range dirs {
		cmdline, err := os.ReadFile(filepath.Join(dir, "cmdline"))
		if err != nil || len(cmdline) == 0 {
			continue // it has ended, or is the kernel's
		}
		environ, _ := os.ReadFile(filepath.Join(dir, "environ"))
		argv := strings.Split(strings.TrimRight(string(cmdline), "\x00"), "\x00")
		st, err := os.Stat(dir)
		if err != nil {
			continue
		}
		owner, ok := st.Sys().(*syscall.Stat_t)
		shell := filepath.Base(argv[0]) == "sh" || filepath.Base(argv[0]) == "sleep"
		out = append(out, proc{name: strings.Join(argv, " "), cmdline: cmdline, environ: environ, container: shell && ok && owner.Uid != 0})
	}
	return out
}

// lookIn reads the regular files of a directory, but for those beneath another.
func lookIn(t *testing.T, dir, but string, look func(file string, data []byte)) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if but != "" && p == but {
			return filepath.SkipDir
		}
		if err == nil && d.Type().IsRegular() { // else it went while we looked, or is nothing to read
			if data, err := os.ReadFile(p); err == nil {
				files++
				look(p, data)
			}
		}
		return nil
	})
	if err != nil || files == 0 {
		t.Errorf("read %d files of %s: %v", files, dir, err)
	}
}

// measurements is what the virtual kubelet, started anew, measures while it takes
// the pods up again.
func measurements(t *testing.T) []byte {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	argv := slices.Clone(vnode(t).Argv)
	if err := here(t).Restart("vnode", append(slices.Clone(argv), "--metrics-bind-address="+address), nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := here(t).Restart("vnode", argv, nil); err != nil {
			t.Error(err)
		}
	})
	var text string
	eventually(t, time.Minute, "the daemon answers with its measurements", func() (bool, string) {
		var err error
		text, err = fetch.Text(t.Context(), "http://"+address+"/metrics")
		return err == nil && strings.Contains(text, "isthmus_vnode_"), fmt.Sprint(err)
	})
	return []byte(text)
}
