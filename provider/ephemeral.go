package provider

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// handedOver is what was last done about a pod's ephemeral containers.
type handedOver struct {
	names   string
	at      time.Time
	retryAt time.Time
	told    string
	live    bool // in this look
}

// addEphemerals looks once at all pods that run and hands over the ephemeral
// containers that their runners do not show yet. It is not called concurrently
// with itself.
func (b *Bridge) addEphemerals(ctx context.Context) {
	view, now := b.View(), b.Clock.Now()
	for _, pod := range b.Pods.List() {
		p := facts(pod)
		if len(pod.Spec.EphemeralContainers) == 0 || p.JobID == "" || p.Finished || p.Deleting || ctx.Err() != nil {
			continue
		}
		known := b.added[p.UID]
		if known == nil {
			known = &handedOver{}
			b.added[p.UID] = known
		}
		known.live = true
		dir, ok := view.Files[p.Intent]
		rank, member := dir.gang.Ranks[p.UID]
		st, started := dir.gang.Pods[rank]
		if !ok || !member || dir.user != p.User || !started || st.UID != p.UID || st.Phase.Terminal() || now.Before(known.retryAt) {
			continue
		}
		names := missingEphemerals(pod, st)
		if names == "" || names == known.names && now.Sub(known.at) < takenWait {
			continue
		}
		err := b.addEphemeral(ctx, pod, p, dir.user, rank)
		var wait *waiting
		switch {
		case err == nil:
			known.names, known.at, known.told = names, now, ""
			b.wake()
		case asWaiting(err, &wait):
			known.retryAt = now.Add(refreshPause)
			if text := wait.Error(); text != known.told {
				known.told = text
				b.Pods.Event(pod, corev1.EventTypeWarning, wait.reason, "ephemeral container is not started: "+wait.message)
			}
		default:
			known.retryAt = now.Add(refreshPause)
			b.Log.Info("could not hand over ephemeral containers", "pod", pod.Namespace+"/"+pod.Name, "podUID", pod.UID, "error", err.Error())
		}
	}
	for uid, known := range b.added {
		if !known.live {
			delete(b.added, uid)
		}
		known.live = false
	}
}

// missingEphemerals names those that the runner has not taken.
func missingEphemerals(pod *corev1.Pod, st manifest.Status) string {
	var names []string
	for _, c := range pod.Spec.EphemeralContainers {
		if !slices.ContainsFunc(st.Ephemeral, func(have manifest.Container) bool { return have.Name == c.Name }) {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, " ")
}

func (b *Bridge) addEphemeral(ctx context.Context, pod *corev1.Pod, p lifecycle.Pod, user string, rank int) error {
	acct, err := b.accountOf(pod)
	if err != nil {
		return err
	}
	if acct.User != user {
		return &waiting{"AccountChanged", "the namespace is mapped to another user by now, and the pod runs as " + user}
	}
	vnode, ok := b.vnode(pod.Spec.NodeName)
	if !ok {
		vnode.Name = pod.Spec.NodeName
	}
	in := translate.Input{Cluster: b.Cluster, Node: vnode, Account: acct, Capabilities: b.Backend.Capabilities(), APIServer: b.APIServer}
	b.identify(&in)
	if view, ok := b.partition(pod.Spec.NodeName); ok {
		in.Partition, in.GPUTypes = view.Partition, view.GPUTypes
	}
	configMaps, secrets := translate.References(translate.EphemeralOnly(pod), false)
	member, err := b.resolve(ctx, b.Objects, acct, rank, translate.EphemeralOnly(pod), configMaps, secrets)
	if err != nil {
		return err
	}
	member.Pod, member.Traceparent = pod, b.Tracer.Parent(p.Intent, p.UID)
	list, err := translate.Ephemeral(in, member)
	var refusal *translate.Refusal
	if errors.As(err, &refusal) {
		return &waiting{refusal.Reason, refusal.Error()}
	}
	if err != nil {
		return err
	}
	return b.Gate.Do(ctx, "ephemeral", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, readDeadline)
		defer cancel()
		return b.Stager.Ephemeral(ctx, user, p.Intent, rank, list)
	})
}
