package parity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// stepLimit bounds each step of a case. A kubelet's first back-off alone lasts 10 s.
const stepLimit = 100 * time.Second

// column is one of the ways that every case runs.
type column struct {
	name      string
	namespace string
	place     func(*corev1.Pod)
	table     string // file of what differs from the kubelet; "" is the kubelet itself
}

// run is one case in one column.
type run struct {
	column
	env    *environment.Environment
	kube   kubernetes.Interface
	c      testCase
	names  map[string]string // values of this run only
	last   *corev1.Pod       // as it was last seen
	gone   bool
	result observation
}

// do runs the case. The error is the testbed's; what goes wrong with the pod is
// part of the observation.
func (r *run) do(ctx context.Context) error {
	r.result = observation{}
	for _, o := range r.c.objects {
		if err := r.apply(ctx, o.DeepCopy()); err != nil {
			return err
		}
	}
	pod := r.c.pod.DeepCopy()
	pod.Namespace = r.namespace
	r.place(pod)
	made, err := r.kube.CoreV1().Pods(r.namespace).Create(ctx, pod, metav1.CreateOptions{})
	if apierrors.IsInvalid(err) {
		r.result["refused"] = err.Error()
		return nil
	}
	if err != nil {
		return err
	}
	r.last = made
	for i, s := range r.c.script.Steps {
		if err := r.step(ctx, fmt.Sprintf("step %d", i+1), s); err != nil {
			return err
		}
	}
	if !r.gone {
		r.settle(ctx)
		if r.last, err = r.kube.CoreV1().Pods(r.namespace).Get(ctx, pod.Name, metav1.GetOptions{}); err != nil {
			return err
		}
		r.logs(ctx)
	}
	r.result.pod(r.last)
	s := &r.last.Status
	r.names[string(r.last.UID)] = "uid"
	r.names[r.last.Spec.NodeName] = "node"
	r.names[s.HostIP] = "hostIP"
	r.names[s.PodIP] = "podIP"
	r.result.normal(r.names)
	maps.DeleteFunc(r.result, func(field, _ string) bool {
		return slices.ContainsFunc(r.c.script.Unstable, func(p string) bool { return strings.HasPrefix(field, p) })
	})
	return nil
}

// settle waits for what a kubelet writes last of a pod that has ended: that its
// sandbox is gone.
func (r *run) settle(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	// Should it not come, the observation says so.
	_ = r.until(ctx, func(p *corev1.Pod) bool {
		if p.Status.Phase != corev1.PodSucceeded && p.Status.Phase != corev1.PodFailed {
			return true
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodReadyToStartContainers && c.Status == corev1.ConditionTrue {
				return false
			}
		}
		return true
	})
}

// remove deletes the pod and waits until it is gone.
func (r *run) remove(ctx context.Context) error {
	if r.last == nil || r.gone {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	none := int64(1)
	err := r.kube.CoreV1().Pods(r.namespace).Delete(ctx, r.last.Name, metav1.DeleteOptions{GracePeriodSeconds: &none})
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	if err = r.until(ctx, func(*corev1.Pod) bool { return false }); err != nil && !r.gone {
		return fmt.Errorf("pod %s/%s stays after its deletion: %w", r.namespace, r.last.Name, err)
	}
	return nil
}

func (r *run) apply(ctx context.Context, o *unstructured.Unstructured) error {
	o.SetNamespace(r.namespace)
	return r.env.Client().Apply(ctx, client.ApplyConfigurationFromUnstructured(o), client.FieldOwner("parity"), client.ForceOwnership)
}

func (r *run) step(ctx context.Context, name string, s step) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	switch {
	case s.Wait != nil:
		held := false
		err := r.until(ctx, func(p *corev1.Pod) bool {
			held = r.holds(ctx, p, s.Wait)
			ended := p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
			// The end of a log may follow the end of its pod.
			return held || ended && (s.Wait.Log == "" || p.Status.Reason == refused)
		})
		if err == nil && !held && !r.gone {
			r.result[name] = "the pod ended first"
		} else if r.gone {
			r.result[name] = "the pod is gone"
		} else if errors.Is(err, context.DeadlineExceeded) {
			r.result[name] = fmt.Sprintf("did not come within %s", stepLimit)
		} else if err != nil {
			return err
		}
	case s.Apply != nil:
		return r.apply(ctx, &unstructured.Unstructured{Object: s.Apply})
	case s.Exec != nil:
		r.result[name+" exec"] = r.kubectl(ctx, "exec", s.Exec)
	case s.Attach != nil:
		r.result[name+" attach"] = r.kubectl(ctx, "attach", s.Attach)
	case s.Ephemeral != nil:
		return r.ephemeral(ctx, *s.Ephemeral)
	case s.Delete != nil:
		return r.delete(ctx, name, s.Delete)
	}
	return nil
}

// until watches the pod until the condition holds or it is gone.
func (r *run) until(ctx context.Context, holds func(*corev1.Pod) bool) error {
	tick := time.NewTicker(300 * time.Millisecond) // for what the pod's object does not tell
	defer tick.Stop()
	for {
		w, err := r.kube.CoreV1().Pods(r.namespace).Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + r.c.pod.Name})
		if err != nil {
			return errors.Join(err, ctx.Err())
		}
		// What was gone before makes no event.
		if p, err := r.kube.CoreV1().Pods(r.namespace).Get(ctx, r.c.pod.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) || err == nil && p.UID != r.last.UID {
			w.Stop()
			r.gone = true
			return nil
		}
		for open := true; open; {
			var e watch.Event
			select {
			case <-ctx.Done():
				w.Stop()
				return ctx.Err()
			case <-tick.C:
			case e, open = <-w.ResultChan():
				pod, ok := e.Object.(*corev1.Pod)
				if !ok || pod.UID != r.last.UID {
					continue
				}
				r.last, r.gone = pod, e.Type == watch.Deleted
			}
			if r.gone || holds(r.last) {
				w.Stop()
				return nil
			}
		}
	}
}

func (r *run) holds(ctx context.Context, p *corev1.Pod, w *wait) bool {
	s := &p.Status
	if w.Ended && s.Phase != corev1.PodSucceeded && s.Phase != corev1.PodFailed || w.Phase != "" && string(s.Phase) != w.Phase {
		return false
	}
	if w.Container == "" && !w.Ready && !w.Unready && w.Restarts == 0 && w.Waiting == "" && w.ExitCode == nil && w.Log == "" {
		return true
	}
	var c *corev1.ContainerStatus
	for _, list := range [][]corev1.ContainerStatus{s.EphemeralContainerStatuses, s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			if list[i].Name == w.Container || w.Container == "" && list[i].Name == p.Spec.Containers[0].Name {
				c = &list[i]
			}
		}
	}
	switch {
	case c == nil,
		w.Ready && !c.Ready, w.Unready && (c.Ready || c.State.Running == nil), c.RestartCount < w.Restarts,
		w.Waiting != "" && (c.State.Waiting == nil || c.State.Waiting.Reason != w.Waiting),
		w.ExitCode != nil && (c.State.Terminated == nil || c.State.Terminated.ExitCode != *w.ExitCode):
		return false
	}
	if w.Log == "" {
		return true
	}
	if c.State.Running == nil && c.State.Terminated == nil {
		return false
	}
	text, err := r.log(ctx, c.Name, false)
	return err == nil && strings.Contains(text, w.Log)
}

func (r *run) log(ctx context.Context, container string, previous bool) (string, error) {
	in, err := r.kube.CoreV1().Pods(r.namespace).GetLogs(r.last.Name, &corev1.PodLogOptions{Container: container, Previous: previous}).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = in.Close() }()
	raw, err := io.ReadAll(in)
	return string(raw), err
}

// logs adds the logs of all containers that ran.
func (r *run) logs(ctx context.Context) {
	s := &r.last.Status
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for _, c := range list {
			if c.State.Running != nil || c.State.Terminated != nil {
				r.addLog(ctx, c.Name+".log", c.Name, false)
			}
			// A kubelet may have removed it when the next run has ended as well.
			if c.LastTerminationState.Terminated != nil && c.State.Running != nil {
				r.addLog(ctx, c.Name+".log of the run before", c.Name, true)
			}
		}
	}
}

func (r *run) addLog(ctx context.Context, field, container string, previous bool) {
	text, err := r.log(ctx, container, previous)
	if err != nil {
		text += "ERROR " + err.Error()
	}
	r.result[field] = text
}

// kubectl runs exec or attach as a user does and tells all that came of it.
func (r *run) kubectl(ctx context.Context, verb string, e *exec) string {
	args := []string{verb, "-n", r.namespace, r.last.Name, "--container", e.Container, "--quiet"}
	if e.Container == "" {
		args[5] = r.last.Spec.Containers[0].Name
	}
	if e.Stdin != nil {
		args = append(args, "--stdin")
	}
	if len(e.Command) > 0 {
		args = append(append(args, "--"), e.Command...)
	}
	cmd := r.env.KubectlCommand(ctx, args...)
	if e.Stdin != nil {
		cmd.Stdin = strings.NewReader(*e.Stdin)
	}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	text := stdout.String()
	if stderr.Len() > 0 {
		text += "STDERR " + stderr.String()
	}
	if err != nil {
		text += "END " + err.Error() + "\n"
	}
	return text
}

func (r *run) ephemeral(ctx context.Context, c corev1.EphemeralContainer) error {
	pod, err := r.kube.CoreV1().Pods(r.namespace).Get(ctx, r.last.Name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	pod.Spec.EphemeralContainers = append(pod.Spec.EphemeralContainers, c)
	_, err = r.kube.CoreV1().Pods(r.namespace).UpdateEphemeralContainers(ctx, pod.Name, pod, metav1.UpdateOptions{})
	return err
}

// delete deletes the pod, follows the logs of its containers to their end, and
// keeps the last status that the API had.
func (r *run) delete(ctx context.Context, name string, d *deletion) error {
	texts := map[string]chan string{}
	for _, c := range r.last.Spec.Containers {
		out := make(chan string, 1)
		texts[c.Name] = out
		in, err := r.kube.CoreV1().Pods(r.namespace).GetLogs(r.last.Name, &corev1.PodLogOptions{Container: c.Name, Follow: true}).Stream(ctx)
		if err != nil {
			out <- "ERROR " + err.Error()
			continue
		}
		go func() {
			defer func() { _ = in.Close() }()
			raw, err := io.ReadAll(in)
			if err != nil {
				raw = append(raw, "ERROR "+err.Error()...)
			}
			out <- string(raw)
		}()
	}
	if err := r.kube.CoreV1().Pods(r.namespace).Delete(ctx, r.last.Name, metav1.DeleteOptions{GracePeriodSeconds: d.Grace}); err != nil {
		return err
	}
	if err := r.until(ctx, func(*corev1.Pod) bool { return false }); !r.gone {
		r.result[name] = "the pod is not gone: " + err.Error()
	}
	for c, out := range texts {
		select {
		case r.result[c+".log"] = <-out:
		case <-ctx.Done():
			r.result[c+".log"] = "the log does not end"
		}
	}
	return nil
}

// hostName is the machine's, which bare processes see.
func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return ""
	}
	return name
}
