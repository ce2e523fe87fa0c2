//go:build upgrade

package upgrade_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const small = "resources: {requests: {cpu: 1, memory: 16Mi}, limits: {cpu: 1, memory: 16Mi}}"

// pod is one of a single container. A volume is mounted at /volume; more are lines of
// its spec.
func pod(name, restart, script, volume string, more ...string) string {
	mount := ""
	if volume != "" {
		more = append(more, "  volumes: [{name: volume, "+volume+"}]")
		mount = "    volumeMounts: [{name: volume, mountPath: /volume}]"
	}
	return fmt.Sprintf(`
---
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  schedulerName: volcano
  restartPolicy: %s
  terminationGracePeriodSeconds: 20
%s
  containers:
  - name: main
    image: none
    command: [/bin/sh, -c, %q]
    %s
%s
`, name, restart, strings.Join(more, "\n"), script, small, mount)
}

// gang is a Volcano Job; more are lines of its spec.
func gang(name string, members int, more, script string) string {
	return fmt.Sprintf(`
---
apiVersion: batch.volcano.sh/v1alpha1
kind: Job
metadata: {name: %s}
spec:
%s
`, name, jobSpec("  ", members, more, script))
}

func jobSpec(indent string, members int, more, script string) string {
	text := fmt.Sprintf(`minAvailable: %d
schedulerName: volcano
plugins: {env: []}
%s
tasks:
- name: task
  replicas: %d
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 20
      containers:
      - {name: main, image: none, command: [/bin/sh, -c, %q], %s}
`, members, more, members, script, small)
	return indent + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+indent)
}

// begin starts a cohort of jobs and waits until each is where it is to be.
func (w *world) begin(cohort string, singles int) {
	w.Helper()
	if len(w.cohorts) == 0 {
		w.kubectl("create", "namespace", "fresh")
		w.kubectl("create", "namespace", "guest")
		w.apply("default", `
apiVersion: hpc.isthmus.sh/v1alpha1
kind: Reservation
metadata: {name: course}
spec: {duration: 24h, nodes: {names: [testbed-h100]}, owners: {namespaces: [default, fresh]}}
`)
		w.eventually(time.Minute, "the reservation is in force", func() (bool, string) {
			out := w.kubectl("get", "rsv", "course", "-o", "jsonpath={.status.phase}")
			return out == "Active", out
		})
		w.apply("guest", pod("stranger", "Never", "echo let in", "", "  nodeSelector: {isthmus.sh/partition: h100}"))
	}
	w.cohorts = append(w.cohorts, cohort)
	w.apply("default", w.manifests(cohort, singles))
	w.eventually(8*time.Minute, "cohort "+cohort+" runs", func() (bool, string) {
		return w.settled(cohort)
	})
	w.hold(cohort + "-held")
	w.eventually(2*time.Minute, "cohort "+cohort+" is at rest", func() (bool, string) {
		a := w.record()
		out := w.kubectl("get", "vcjob", cohort+"-again", "-o", "jsonpath={.status.state.phase} {.status.version} {.status.retryCount} {.status.running}")
		flow := w.kubectl("get", "jobflow", cohort+"-flow", "-o", "jsonpath={.status.state.phase} {.status.runningJobs} {.status.pendingJobs}")
		held := w.kubectl("get", "pod", cohort+"-held", "-o", `jsonpath={.status.phase} {.status.containerStatuses[0].restartCount} {.status.conditions[?(@.type=="isthmus.sh/BatchJob")].message}`)
		b := w.record()
		same := strings.Join(a, "\n") == strings.Join(b, "\n")
		return same && strings.HasPrefix(out, "Running ") && strings.HasSuffix(out, " 1 1") && strings.Contains(flow, cohort+"-flow-"+cohort+"-first") &&
			strings.Contains(strings.ToLower(held), "held"), fmt.Sprintf("%q %q %q, unchanging: %t", out, flow, held, same)
	})
}

// manifests are the objects of a cohort. It notes how each of its pods ends and how
// often each container starts until then.
func (w *world) manifests(c string, singles int) string {
	var all strings.Builder
	script := func(name, first string, code int) string {
		return fmt.Sprintf("mktemp %[1]s/%[2]s.${VC_TASK_INDEX:-0}.XXXXXX >/dev/null; echo here is %[2]s; %[3]s; until test -e %[1]s/go; do sleep 5; done; exit %[4]d", w.marks, name, first, code)
	}
	once := func(name string) string {
		return fmt.Sprintf("test -e %[1]s/%[2]s.before || { touch %[1]s/%[2]s.before; exit 9; }", w.marks, name)
	}
	single := func(name, restart, first string, e end, starts int, volume string) {
		e.pod = name
		w.ends, w.starts[name] = append(w.ends, e), starts
		w.jobs++
		all.WriteString(pod(name, restart, script(name, first, int(e.code)), volume))
	}
	for i := range singles {
		name := fmt.Sprintf("%s-p%d", c, i)
		if i%4 == 3 {
			single(name, "OnFailure", once(name), end{restarts: 1}, 2, "")
		} else {
			single(name, "Never", "true", end{code: int32(i % 4)}, 1, "") //nolint:gosec // up to 3
		}
	}
	for i := range 4 { // one for each change, which it is deleted after
		name := fmt.Sprintf("%s-gone%d", c, i)
		all.WriteString(pod(name, "Never", fmt.Sprintf("trap 'touch %[1]s/%[2]s.trapped; exit 0' TERM; mktemp %[1]s/%[2]s.0.XXXXXX >/dev/null; while :; do sleep 1 & wait $!; done", w.marks, name), ""))
		w.starts[name] = 1
		w.jobs++
	}
	single(c+"-held", "Never", "true", end{restarts: 1}, 2, "")
	fmt.Fprintf(&all, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s-live}\ndata: {word: first}\n", c)
	single(c+"-live", "Never", "true", end{}, 1, "configMap: {name: "+c+"-live}")
	fmt.Fprintf(&all, `
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: %[1]s-data}
spec: {storageClassName: hpc, volumeName: default-%[1]s-data, accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: default-%[1]s-data}
spec:
  storageClassName: hpc
  accessModes: [ReadWriteMany]
  capacity: {storage: 1Gi}
  claimRef: {namespace: default, name: %[1]s-data}
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /nowhere}
`, c)
	single(c+"-claim", "Never", "true", end{}, 1, "persistentVolumeClaim: {claimName: "+c+"-data}")

	team, again, first, second, often := c+"-gang", c+"-again", c+"-first", c+"-second", c+"-often"
	all.WriteString(gang(team, 3, "", script(team, "true", 0)))
	all.WriteString(gang(again, 1, "maxRetry: 3\npolicies: [{event: PodFailed, action: RestartJob}]", script(again, once(again), 0)))
	for name, text := range map[string]string{first: script(first, "true", 0), second: script(second, "true", 0)} {
		fmt.Fprintf(&all, "\n---\napiVersion: flow.volcano.sh/v1alpha1\nkind: JobTemplate\nmetadata: {name: %s}\nspec:\n%s\n", name, jobSpec("  ", 1, "", text))
	}
	fmt.Fprintf(&all, `
---
apiVersion: flow.volcano.sh/v1alpha1
kind: JobFlow
metadata: {name: %s-flow}
spec:
  jobRetainPolicy: retain
  flows: [{name: %s}, {name: %s, dependsOn: {targets: [%s]}}]
---
apiVersion: batch.volcano.sh/v1alpha1
kind: CronJob
metadata: {name: %s}
spec:
  schedule: "@every 1s"
  concurrencyPolicy: Forbid
  jobTemplate:
    spec:
%s
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: %s-dep}
spec:
  replicas: 2
  selector: {matchLabels: {app: %s-dep}}
  template:
    metadata: {labels: {app: %s-dep}}
    spec:
      schedulerName: volcano
      terminationGracePeriodSeconds: 20
      containers: [{name: main, image: none, command: [/bin/sh, -c, %q], %s}]
`, c, first, second, first, often, jobSpec("      ", 1, "", script(often, "true", 0)), c, c, c,
		fmt.Sprintf("mktemp %s/%s-dep.0.XXXXXX >/dev/null; trap 'exit 0' TERM; sleep 100000 & wait", w.marks, c), small)
	maps.Copy(w.starts, map[string]int{team: 3, again: 2, first: 1, second: 1, often: 1, c + "-dep": 2})
	w.jobs += 6 // the gang, that which is restarted, the flow's first, the CronJob's, two of the Deployment
	return all.String()
}

// settled tells whether each container of a cohort that starts before the end has.
func (w *world) settled(c string) (bool, string) {
	now := w.begun()
	var wait []string
	for name, n := range w.starts {
		if !strings.HasPrefix(name, c+"-") || name == c+"-second" {
			continue
		}
		if name == c+"-held" {
			n = 1 // the second time comes at the end
		}
		if now[name] != n {
			wait = append(wait, fmt.Sprintf("%s started %d of %d times", name, now[name], n))
		}
	}
	return len(wait) == 0, fmt.Sprintf("%d wait: %s", len(wait), strings.Join(wait[:min(10, len(wait))], ", "))
}

// hold puts a running pod's job back into the queue, where it stays.
func (w *world) hold(name string) {
	w.Helper()
	id := ""
	w.eventually(time.Minute, "the job of "+name+" is known", func() (bool, string) {
		id = w.kubectl("get", "pod", name, "-o", `jsonpath={.metadata.annotations.isthmus\.sh/batch-job-id}`)
		return id != "", id
	})
	w.slurm("scontrol", "requeuehold", id)
	w.slurm("scontrol", "hold", id) // the reason is a later begin until then
}

// reach looks into pods that were begun before: logs, exec, live volumes, containers
// that are added. The change is the i-th.
func (w *world) reach(i int) {
	w.Helper()
	for _, c := range w.cohorts {
		for _, name := range []string{c + "-p0", c + "-live", c + "-gang-task-0"} {
			of := strings.TrimSuffix(name, "-task-0")
			w.eventually(time.Minute, "logs and exec of "+name, func() (bool, string) {
				logs, err := w.try("logs", name)
				out, eerr := w.try("exec", name, "--", "/bin/sh", "-c", "echo inside; exit 0")
				return err == nil && eerr == nil && logs == "here is "+of+"\n" && out == "inside\n", fmt.Sprint(logs, err, out, eerr)
			})
		}
		word := fmt.Sprintf("word-%d", i)
		w.kubectl("patch", "configmap", c+"-live", "--type=merge", "-p", `{"data":{"word":"`+word+`"}}`)
		w.eventually(3*time.Minute, "a changed ConfigMap reaches "+c+"-live", func() (bool, string) {
			out, err := w.try("exec", c+"-live", "--", "cat", "/volume/word")
			return err == nil && out == word, fmt.Sprint(out, err)
		})
		look := fmt.Sprintf("look%d", i)
		w.kubectl("debug", c+"-live", "--image=none", "-c", look, "--", "echo", "added")
		w.eventually(3*time.Minute, "a container that is added to "+c+"-live runs", func() (bool, string) {
			out, err := w.try("logs", c+"-live", "-c", look)
			return err == nil && out == "added\n", fmt.Sprint(out, err)
		})
	}
}

// tellToEnd deletes a pod of each cohort, which is told so and has its grace.
func (w *world) tellToEnd(i int) {
	w.Helper()
	for _, c := range w.cohorts {
		name := fmt.Sprintf("%s-gone%d", c, i)
		w.kubectl("delete", "pod", name, "--timeout=2m")
		if _, err := os.Stat(filepath.Join(w.marks, name+".trapped")); err != nil {
			w.Errorf("the program of %s was not told to end: %v", name, err)
		}
	}
}

// finish lets everything end and looks at how.
func (w *world) finish() {
	w.Helper()
	for _, c := range w.cohorts {
		w.kubectl("patch", "cronvcjob", c+"-often", "--type=merge", "-p", `{"spec":{"suspend":true}}`)
		w.kubectl("scale", "deployment", c+"-dep", "--replicas=0")
	}
	w.must(os.WriteFile(filepath.Join(w.marks, "go"), nil, 0o644)) //nolint:gosec // the jobs look for it
	for _, c := range w.cohorts {
		id := w.kubectl("get", "pod", c+"-held", "-o", `jsonpath={.metadata.annotations.isthmus\.sh/batch-job-id}`)
		w.slurm("scontrol", "release", id)
	}
	w.kubectl("delete", "rsv", "course")
	want := map[string]string{}
	for _, e := range w.ends {
		phase := "Succeeded"
		if e.code != 0 {
			phase = "Failed"
		}
		want[e.pod] = fmt.Sprintf("%s %d %d", phase, e.code, e.restarts)
	}
	w.eventually(8*time.Minute, "all pods end as they should", func() (bool, string) {
		out := w.kubectl("get", "pods", "-o", `jsonpath={range .items[*]}{.metadata.name} {.status.phase} {.status.containerStatuses[0].state.terminated.exitCode} {.status.containerStatuses[0].restartCount}{"\n"}{end}`)
		got := map[string]string{}
		for line := range strings.Lines(out) {
			name, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			got[name] = rest
		}
		var not []string
		for name, how := range want {
			if got[name] != how {
				not = append(not, fmt.Sprintf("%s: %q, want %q", name, got[name], how))
			}
		}
		return len(not) == 0, strings.Join(not, "\n")
	})
	for _, c := range w.cohorts {
		w.eventually(4*time.Minute, "the Jobs of cohort "+c+" are completed", func() (bool, string) {
			out := w.kubectl("get", "vcjob", c+"-gang", c+"-again", c+"-flow-"+c+"-first", c+"-flow-"+c+"-second", "--ignore-not-found", "-o",
				`jsonpath={range .items[*]}{.status.state.phase} {.status.retryCount};{end}`)
			flow := w.kubectl("get", "jobflow", c+"-flow", "-o", "jsonpath={.status.state.phase}")
			cron := w.kubectl("get", "cronvcjob", c+"-often", "-o", "jsonpath={.status.active}")
			return out == "Completed ;Completed 1;Completed ;Completed ;" && flow == "Succeed" && (cron == "" || cron == "[]"), fmt.Sprint(out, flow, cron)
		})
	}
	w.eventually(3*time.Minute, "whoever the reservation kept out runs", func() (bool, string) {
		out := w.kubectl("get", "pod", "stranger", "-n", "guest", "-o", "jsonpath={.status.phase}")
		return out == "Succeeded", out
	})
	got := w.begun()
	for name, n := range w.starts {
		if got[name] != n {
			w.Errorf("%s was started %d times, want %d", name, got[name], n)
		}
	}
	w.kubectl("delete", "vcjob,jobflow,cronvcjob,deployment,pod", "--all", "--timeout=3m")
	w.kubectl("delete", "pod", "--all", "-n", "guest", "--timeout=2m")
	w.eventually(3*time.Minute, "nothing is left at Slurm and in the staging area", func() (bool, string) {
		queue := w.slurm("squeue", "--all", "--noheader")
		dirs, err := filepath.Glob(filepath.Join(w.env.Staging, w.env.User, "g", "*"))
		w.must(err)
		return queue == "" && len(dirs) == 0, fmt.Sprint(queue, dirs)
	})
}
