package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/restart"
)

const (
	maxPod = 16 << 20 // of one pod.json in bytes
	// pullsAtOnce is how many gangs' images are pulled at once.
	pullsAtOnce = 4
	// pullLimit is the most that one try of one image takes; the store itself ends
	// what stalls.
	pullLimit = time.Hour
	// ordersLook is the time between two looks for orders while others are under way.
	ordersLook = 2 * time.Second
	// goneLook is the time between two looks for a gang that is gone.
	goneLook = time.Second
)

// Puller pulls the images of all gangs beneath dir that Pull has asked for, as
// few at once as a login host bears, and ends when there is nothing to do, with
// ctx, or at once when another is at work. Each image is there once for all gangs
// and asked for once a gang. It may be killed at any time: what it has not said to
// be done is done again by the next.
func Puller(ctx context.Context, dir string, pause restart.Backoff) error {
	root, err := openBase(dir, false)
	if err != nil {
		return err
	}
	defer root.Close()
	unlock, err := takePull(root)
	if errors.Is(err, errBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	defer unlock()
	busy, done, ended := map[string]bool{}, map[string]time.Time{}, make(chan string)
	tick := time.NewTicker(ordersLook)
	defer tick.Stop()
	var queue []string
	stale := true
	for {
		if stale || len(queue) == 0 {
			if queue, err = ordered(root, busy, done); err != nil {
				queue = nil // those under way go on; the caller asks again
			}
			stale = false
		}
		for ; len(queue) > 0 && len(busy) < pullsAtOnce && ctx.Err() == nil; queue = queue[1:] {
			key := queue[0]
			busy[key] = true
			go func() {
				pullGang(ctx, root, dir, key, pause)
				ended <- key
			}()
		}
		if len(busy) == 0 {
			return err
		}
		select {
		case key := <-ended:
			delete(busy, key)
		case <-tick.C:
			stale = true
		}
	}
}

// ordered lists the gangs whose pull is due and not under way. It notes when those
// that are done came to be so: they need no second look, unless they are staged and
// ordered anew.
func ordered(root *os.Root, busy map[string]bool, done map[string]time.Time) ([]string, error) {
	names, err := atomicfile.Names(root, gangsDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var keys []string
	for _, key := range names {
		if busy[key] || !keyPattern.MatchString(key) {
			continue
		}
		info, err := root.Lstat(pullPath(key))
		if err != nil || done[key].Equal(info.ModTime()) {
			continue // nobody has asked, or it is gone, or it is done
		}
		p, err := readPull(root, key)
		switch {
		case err != nil:
		case p.Done:
			done[key] = info.ModTime()
		case due(p, time.Now()):
			keys = append(keys, key)
		}
	}
	slices.Sort(keys)
	return keys, nil
}

// pullGang pulls one gang's images and writes down how far it is.
func pullGang(ctx context.Context, root *os.Root, dir, key string, pause restart.Backoff) {
	gang, err := root.OpenRoot(gangPath(key))
	if err != nil {
		return // it is gone, or the next look finds it again
	}
	defer gang.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	watched := make(chan struct{})
	go func() { // a gang that is removed wants no images
		defer close(watched)
		tick := time.NewTicker(goneLook)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if _, err := root.Lstat(gangPath(key)); errors.Is(err, fs.ErrNotExist) {
					cancel()
					return
				}
			}
		}
	}()
	defer func() { cancel(); <-watched }()

	var state manifest.Pull
	if atomicfile.ReadJSON(gang, manifest.PullFile, maxPull, &state) != nil {
		return
	}
	wants, err := wanted(gang, dir)
	if err != nil {
		state.Images = []manifest.PulledImage{{Reason: manifest.ReasonErrImagePull, Message: err.Error()}}
	} else {
		err = pullAll(ctx, gang, &state, wants)
	}
	if ctx.Err() != nil {
		return // the next puller begins anew
	}
	if state.Done = err == nil; state.Done {
		state.Failures, state.RetryAt = 0, metav1.Time{}
	} else {
		wait := time.Duration(0)
		for range state.Failures + 1 {
			wait = pause.Next(wait, 0)
		}
		state.Failures, state.RetryAt = min(state.Failures+1, 64), metav1.NewTime(time.Now().Add(wait))
	}
	_ = atomicfile.WriteJSON(gang, manifest.PullFile, state) // what is not written is done again
}

// want is an image with what it takes to get it.
type want struct {
	image  string
	policy corev1.PullPolicy
	store  *image.Store
}

// wanted lists the images of a gang, each once for each way to get it.
func wanted(gang *os.Root, dir string) ([]want, error) {
	ranks, err := atomicfile.Names(gang, "pods")
	if err != nil {
		return nil, err
	}
	slices.SortFunc(ranks, func(a, b string) int { return len(a) - len(b) })
	var out []want
	seen := map[string]bool{}
	for _, rank := range ranks {
		if n, err := strconv.Atoi(rank); err != nil || n < 0 {
			continue
		}
		var pod manifest.Pod
		if err := atomicfile.ReadJSON(gang, path.Join("pods", rank, "pod.json"), maxPod, &pod); err != nil {
			return nil, err
		}
		if pod.Images == nil {
			continue // its runtime runs no images
		}
		raw, err := atomicfile.Read(gang, path.Join("pods", rank, manifest.PullSecrets), image.MaxSecrets)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		var store *image.Store
		for _, c := range slices.Concat(pod.Pod.Spec.InitContainers, pod.Pod.Spec.Containers) {
			id := fmt.Sprintf("%s\x00%s\x00%s", c.Image, c.ImagePullPolicy, raw)
			if seen[id] {
				continue
			}
			seen[id] = true
			if store == nil {
				if store, err = storeOf(&pod, dir, raw); err != nil {
					return nil, err
				}
			}
			out = append(out, want{c.Image, c.ImagePullPolicy, store})
		}
		added, err := wantedLater(gang, rank, &pod, dir)
		if err != nil {
			return nil, err
		}
		out = append(out, added...)
	}
	return out, nil
}

// storeOf is the store of a pod's images, with the credentials of its pull secrets.
func storeOf(pod *manifest.Pod, dir string, raw []byte) (*image.Store, error) {
	var secrets [][]byte
	if len(raw) > 0 && json.Unmarshal(raw, &secrets) != nil {
		return nil, errors.New("the pull secrets cannot be read") // the decoder's error quotes what it read
	}
	return storeWith(pod, dir, secrets)
}

func storeWith(pod *manifest.Pod, dir string, secrets [][]byte) (*image.Store, error) {
	s := image.New(pod.Images, dir)
	if len(secrets) == 0 {
		return s, nil
	}
	var err error
	s.Credentials, err = image.ParseCredentials(secrets)
	return s, err
}

// pullAll pulls what is wanted, one after the other, and says in the gang's
// directory how far it is. The error is that an image is not there; the others
// are pulled all the same.
func pullAll(ctx context.Context, gang *os.Root, state *manifest.Pull, wants []want) error {
	at := map[string]int{}
	last := state.Images
	state.Images = nil
	for _, w := range wants {
		if _, ok := at[w.image]; ok {
			continue
		}
		at[w.image] = len(state.Images)
		next := manifest.PulledImage{Image: w.image, Reason: manifest.ReasonPulling, Message: fmt.Sprintf("pulling image %q", w.image)}
		for _, old := range last { // as with a kubelet the failure stays while the next try is under way
			if old.Image == w.image && !old.Done && old.Reason != manifest.ReasonPulling {
				next.Reason, next.Message = old.Reason, old.Message
			}
		}
		state.Images = append(state.Images, next)
	}
	held, err := gang.Open(".")
	if err != nil {
		return err
	}
	defer held.Close()
	// By this name nothing is made anew where the gang was removed.
	base := "/proc/self/fd/" + strconv.Itoa(int(held.Fd()))
	if err := atomicfile.WriteJSON(gang, manifest.PullFile, state); err != nil {
		return err
	}
	for _, w := range wants {
		img := &state.Images[at[w.image]]
		if img.Done {
			continue // what one member may get is there for all
		}
		if err := pullOne(ctx, w, path.Join(base, image.Record(w.image))); err == nil {
			img.Done, img.Reason, img.Message = true, "", ""
		} else {
			img.Reason, _ = image.Reasons(err)
			img.Message = err.Error()
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := atomicfile.WriteJSON(gang, manifest.PullFile, state); err != nil {
			return err
		}
	}
	if slices.ContainsFunc(state.Images, func(i manifest.PulledImage) bool { return !i.Done }) {
		return errors.New("not all images are there")
	}
	return nil
}

func pullOne(ctx context.Context, w want, once string) error {
	ctx, cancel := context.WithTimeout(ctx, pullLimit)
	defer cancel()
	_, err := w.store.Ensure(ctx, w.image, w.policy, once)
	// The gang's record keeps the image from now on.
	w.store.Close()
	if errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("it took more than %s: %w", pullLimit, err)
	}
	return err
}
