package provider

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/backends"
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
	pulls   manifest.Pull     // as last asked, where images are pulled first
	tells   map[string]string // last text of events about an image
	live    bool              // in this look
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
			known = &handedOver{tells: map[string]string{}}
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
		err := b.addEphemeral(ctx, pod, p, dir.user, rank, st, known)
		var wait *waiting
		var images *pulling
		switch {
		case err == nil:
			known.names, known.at, known.told = names, now, ""
			b.wake()
		case errors.As(err, &images):
			b.tellImages(known.tells, pod, known.pulls.Images, func(image string) bool { return usesEphemeral(pod, image) })
			if images.reason != manifest.ReasonPulling {
				known.retryAt = now.Add(refreshPause)
			}
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
		if !taken(st, c.Name) {
			names = append(names, c.Name)
		}
	}
	return strings.Join(names, " ")
}

func usesEphemeral(pod *corev1.Pod, image string) bool {
	return slices.ContainsFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Image == image })
}

// addEphemeral hands over what st does not show. A *pulling error says that some
// of it waits for its image; the others are handed over.
func (b *Bridge) addEphemeral(ctx context.Context, pod *corev1.Pod, p lifecycle.Pod, user string, rank int, st manifest.Status, known *handedOver) error {
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
	b.offered(pod.Spec.NodeName, &in)
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
	images, err := b.pullAdded(ctx, user, p.Intent, rank, translate.EphemeralImages(in, member, untaken(list, st)), known)
	if err != nil {
		return err
	}
	if images != nil {
		all := len(list.Containers)
		list.Containers = slices.DeleteFunc(list.Containers, func(c manifest.EphemeralContainer) bool {
			return c.Refused == "" && !taken(st, c.Container.Name) && !settled(known.pulls, c.Container.Image)
		})
		if len(list.Containers) == all {
			images = nil
		} else if len(untaken(list, st).Containers) == 0 {
			return images
		}
	}
	err = b.Gate.Do(ctx, "ephemeral", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, readDeadline)
		defer cancel()
		return b.Stager.Ephemeral(ctx, user, p.Intent, rank, list)
	})
	if err == nil && images != nil {
		return images
	}
	return err
}

func taken(st manifest.Status, name string) bool {
	return slices.ContainsFunc(st.Ephemeral, func(have manifest.Container) bool { return have.Name == name })
}

// untaken are those that the runner does not show yet.
func untaken(list manifest.Ephemeral, st manifest.Status) manifest.Ephemeral {
	out := manifest.Ephemeral{Version: list.Version}
	for _, c := range list.Containers {
		if !taken(st, c.Container.Name) {
			out.Containers = append(out.Containers, c)
		}
	}
	return out
}

// settled reports whether an image is there, or no pull will ever bring it: then
// the runner says so.
func settled(p manifest.Pull, image string) bool {
	return slices.ContainsFunc(p.Images, func(i manifest.PulledImage) bool {
		return i.Image == image && (i.Done || i.Reason == manifest.ReasonErrNeverPull || i.Reason == manifest.ReasonInvalidImageName)
	})
}

// pullAdded has the images of added containers pulled where the batch system's
// commands run. It does not wait for them: the answer says what they wait for, and
// is nil once all are there.
func (b *Bridge) pullAdded(ctx context.Context, user string, key backends.Key, rank int, want manifest.Want, known *handedOver) (*pulling, error) {
	if len(want.Images) == 0 {
		return nil, nil //nolint:nilnil // nothing is waited for
	}
	last := known.pulls
	err := b.Gate.Do(ctx, "want", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, readDeadline)
		defer cancel()
		if err := b.Stager.Want(ctx, user, key, rank, want); err != nil {
			return err
		}
		var err error
		known.pulls, err = b.Stager.Pull(ctx, user, key)
		return err
	})
	if err != nil {
		return nil, err
	}
	for _, i := range want.Images {
		if !slices.ContainsFunc(known.pulls.Images, func(have manifest.PulledImage) bool { return have.Image == i.Image && have.Done }) {
			return progress(&known.pulls, last), nil
		}
	}
	return nil, nil //nolint:nilnil // nothing is waited for
}
