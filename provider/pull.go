package provider

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// pullPause is the time between two looks at a pull that goes on without us.
const pullPause = time.Second

// pulling says that a gang's images are not there yet.
type pulling struct{ reason, message string }

func (p *pulling) Error() string { return p.reason + ": " + p.message }

// pull has the gang's images pulled before its job is submitted. It does not wait
// for them: a later step asks again.
func (b *Bridge) pull(ctx context.Context, g *lifecycle.Gang, m *memo, pods map[string]*corev1.Pod) (bool, error) {
	if ok, err := b.prepare(ctx, g, m, pods); !ok || err != nil {
		return false, err
	}
	user := m.output.Spec.User
	if !translate.PullFirst(b.Cluster, m.output) {
		m.pulled = true
		return true, nil
	}
	if m.user != user {
		// Staged by an earlier life, whose mapping of accounts was another.
		if did, err := b.stage(ctx, g, m, pods); !did || err != nil {
			return did, err
		}
	}
	last := m.pull
	err := b.Gate.Do(ctx, string(lifecycle.Pull), func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, readDeadline)
		defer cancel()
		var err error
		m.pull, err = b.Stager.Pull(ctx, user, g.Key)
		return err
	})
	switch {
	case errors.Is(err, staging.ErrNotFound), errors.Is(err, fs.ErrNotExist):
		m.staged, m.files = false, nil // somebody removed it; it is staged anew
		return true, fmt.Errorf("pull images of gang %s: %w", g.Key, err)
	case err != nil:
		return true, fmt.Errorf("pull images of gang %s: %w", g.Key, err)
	case m.pull.Done:
		m.pulled, m.pull = true, manifest.Pull{}
		return true, nil
	}
	b.expel(g.Key) // others may go into the batch queue meanwhile
	return false, progress(&m.pull, last)
}

// progress says what a pull that is not done waits for. A failure is told as such
// once, then as the pause that follows it.
func progress(p *manifest.Pull, last manifest.Pull) *pulling {
	there := 0
	var worst *manifest.PulledImage
	for i := range p.Images {
		img := &p.Images[i]
		if img.Done {
			there++
			continue
		}
		if img.Reason == manifest.ReasonErrImagePull && p.Failures > 0 && last.Failures == p.Failures {
			img.Reason, img.Message = manifest.ReasonImagePullBackOff, fmt.Sprintf("Back-off pulling image %q: %s", img.Image, img.Message)
		}
		if worst == nil || worst.Reason == manifest.ReasonPulling {
			worst = img
		}
	}
	if worst == nil {
		return &pulling{manifest.ReasonPulling, "the pull of the images on the login host has not begun"}
	}
	return &pulling{worst.Reason, fmt.Sprintf("images are pulled on the login host before the job is submitted, %d of %d are there: %s", there, len(p.Images), worst.Message)}
}

// awaitImages notes that the gang waits for its images, and tells what a kubelet
// tells of them.
func (b *Bridge) awaitImages(m *memo, pods map[string]*corev1.Pod, p *pulling) {
	m.failures, m.conflicts, m.retryAt = 0, 0, b.Clock.Now().Add(pullPause)
	m.reason, m.message = p.reason, p.message
	for _, pod := range pods {
		b.tellImages(m.reported, pod, m.pull.Images, func(image string) bool { return uses(pod, image) })
	}
}

// tellImages tells of those images that are not there and that the pod uses.
func (b *Bridge) tellImages(reported map[string]string, pod *corev1.Pod, images []manifest.PulledImage, uses func(image string) bool) {
	for _, img := range images {
		kind, reason, text := corev1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %s", img.Image, img.Message)
		switch {
		case img.Done, img.Reason == manifest.ReasonImagePullBackOff, !uses(img.Image):
			continue
		case img.Reason == manifest.ReasonPulling:
			kind, reason, text = corev1.EventTypeNormal, "Pulling", fmt.Sprintf("Pulling image %q on the login host", img.Image)
		}
		if at := string(pod.UID) + " " + img.Image; reported[at] != text { // once for each new text, as tell does
			reported[at] = text
			b.Pods.Event(pod, kind, reason, text)
		}
	}
}

func uses(pod *corev1.Pod, image string) bool {
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if list[i].Image == image {
				return true
			}
		}
	}
	return false
}
