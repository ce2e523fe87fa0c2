package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/clock"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/lifecycle"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

const (
	// refreshEvery is the time between looks at what live pods' volumes should hold.
	refreshEvery = 5 * time.Second
	// objectAge is how old a ConfigMap or Secret may be before it is read again: a
	// kubelet that caches by time has the same minute. Objects are read one by
	// one, so that nobody needs the right to list secrets.
	objectAge = time.Minute
	// objectReads bounds the reads of one look; with more objects the minute
	// stretches.
	objectReads = 100
	// takenWait is how long a runner may take to show what was handed over before
	// it is handed over again.
	takenWait = 2 * time.Minute
	// refreshPause follows a failure.
	refreshPause = 30 * time.Second
)

// freshness is what the refresh loop remembers. Losing it costs one further
// hand-over of what has not started yet.
type freshness struct {
	from  Objects
	clock clock.PassiveClock

	objects map[string]*object
	reads   int // of this look
	pods    map[string]*podContents
	retryAt map[backends.Key]time.Time
}

// object is one ConfigMap or Secret as last read.
type object struct {
	configMap *corev1.ConfigMap
	secret    *corev1.Secret
	err       error // NotFound
	at        time.Time
	immutable bool
	used      bool // in this look
}

func (o *object) version() string {
	switch {
	case o.configMap != nil:
		return string(o.configMap.UID) + "/" + o.configMap.ResourceVersion
	case o.secret != nil:
		return string(o.secret.UID) + "/" + o.secret.ResourceVersion
	}
	return "none"
}

// podContents is what is known of one pod's volumes.
type podContents struct {
	inputs string            // versions of all that decides, at the last translation
	want   manifest.Contents // its outcome
	given  manifest.Contents // what was handed over last
	at     time.Time         // when
	told   string            // last event
	live   bool              // in this look
}

func newFreshness(from Objects, clk clock.PassiveClock) *freshness {
	return &freshness{from: from, clock: clk, objects: map[string]*object{}, pods: map[string]*podContents{}, retryAt: map[backends.Key]time.Time{}}
}

// errLater says that this look has read enough.
var errLater = errors.New("too many objects to read at once")

// get gives an object from memory while it is young, else as read now. A read
// that fails gives the old one.
func (f *freshness) get(key string, read func(*object) error) (*object, error) {
	o := f.objects[key]
	if o != nil {
		o.used = true
		if o.immutable || f.clock.Now().Sub(o.at) < objectAge || f.reads >= objectReads {
			return o, o.err
		}
	} else if f.reads >= objectReads {
		return nil, errLater
	}
	f.reads++
	now := &object{at: f.clock.Now(), used: true}
	err := read(now)
	switch {
	case apierrors.IsNotFound(err):
		now.err = err
	case err != nil && o != nil:
		o.at = f.clock.Now()
		return o, o.err
	case err != nil:
		return nil, err
	}
	f.objects[key] = now
	return now, now.err
}

// ConfigMap implements reader.
func (f *freshness) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	o, err := f.get("configmap/"+namespace+"/"+name, func(o *object) (err error) {
		o.configMap, err = f.from.ConfigMap(ctx, namespace, name)
		o.immutable = err == nil && o.configMap.Immutable != nil && *o.configMap.Immutable
		return err
	})
	if err != nil {
		return nil, err
	}
	return o.configMap, nil
}

// Secret implements reader.
func (f *freshness) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	o, err := f.get("secret/"+namespace+"/"+name, func(o *object) (err error) {
		o.secret, err = f.from.Secret(ctx, namespace, name)
		o.immutable = err == nil && o.secret.Immutable != nil && *o.secret.Immutable
		return err
	})
	if err != nil {
		return nil, err
	}
	return o.secret, nil
}

// Token implements reader: it says what a token would be like and issues none.
// Which token it is does not count for what volumes should hold.
func (f *freshness) Token(_ context.Context, _ *corev1.Pod, _ string, lifetime time.Duration) (string, time.Time, error) {
	return "to be issued", f.clock.Now().Add(lifetime), nil
}

// versions tells what the contents of a pod's volumes depend on.
func (f *freshness) versions(pod *corev1.Pod, acct account.Account, id manifest.Identity, configMaps, secrets []translate.Ref) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %v %d", pod.ResourceVersion, acct.User, acct.ServiceAccountTokens, id.UID)
	add := func(kind string, refs []translate.Ref) {
		for _, ref := range refs {
			if o := f.objects[kind+pod.Namespace+"/"+ref.Name]; o != nil {
				b.WriteString(" " + kind + ref.Name + "=" + o.version())
			}
		}
	}
	add("configmap/", configMaps)
	add("secret/", secrets)
	return b.String()
}

// issuing is the freshness with real tokens.
type issuing struct{ *freshness }

// Token implements reader.
func (i issuing) Token(ctx context.Context, pod *corev1.Pod, audience string, lifetime time.Duration) (string, time.Time, error) {
	return i.from.Token(ctx, pod, audience, lifetime)
}

// refreshLoop looks until ctx ends.
func (b *Bridge) refreshLoop(ctx context.Context) {
	ticker := time.NewTicker(refreshEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		b.addEphemerals(ctx)
		b.Refresh(ctx)
	}
}

// due is a gang's members that need newer contents.
type due struct {
	user    string
	members map[int]translate.Refresh
	uids    map[int]string
}

// Refresh looks once at all pods that were submitted and have not ended, and
// hands over what their ConfigMap, Secret, downwardAPI and projected volumes
// should hold by now, where that is not what they have: one hand-over a gang.
// Tokens are renewed in time. It is not called concurrently with itself.
func (b *Bridge) Refresh(ctx context.Context) {
	f, view := b.fresh, b.View()
	f.reads = 0
	work := map[backends.Key]*due{}
	pods := b.Pods.List()
	slices.SortFunc(pods, func(x, y *corev1.Pod) int {
		return cmp.Or(cmp.Compare(x.Namespace, y.Namespace), cmp.Compare(x.Name, y.Name))
	})
	for _, pod := range pods {
		p := facts(pod)
		if p.JobID == "" || p.Finished || p.Deleting || !translate.HasContents(pod) || ctx.Err() != nil {
			continue
		}
		known := f.pods[p.UID]
		if known == nil {
			known = &podContents{}
			f.pods[p.UID] = known
		}
		if c, ok := b.takeStaged(p.UID); ok {
			known.given, known.at = c, f.clock.Now()
		}
		known.live = true
		dir, ok := view.Files[p.Intent]
		rank, member := dir.gang.Ranks[p.UID]
		if !ok || !member || dir.user != p.User || f.clock.Now().Before(f.retryAt[p.Intent]) {
			continue
		}
		fresh, err := b.freshContents(ctx, translate.ContentsOnly(pod), p, known, dir, rank)
		var wait *waiting
		switch {
		case err == nil && fresh != nil:
			if work[p.Intent] == nil {
				work[p.Intent] = &due{user: dir.user, members: map[int]translate.Refresh{}, uids: map[int]string{}}
			}
			work[p.Intent].members[rank], work[p.Intent].uids[rank] = *fresh, p.UID
		case asWaiting(err, &wait):
			// As on a kubelet, what the pod has stays.
			if text := wait.Error(); text != known.told {
				known.told = text
				b.Pods.Event(pod, corev1.EventTypeWarning, translate.ReasonMount, "volumes are not brought up to date: "+wait.message)
			}
		case err != nil && !errors.Is(err, errLater):
			f.retryAt[p.Intent] = f.clock.Now().Add(refreshPause)
			b.Log.Info("could not bring volumes up to date", "pod", pod.Namespace+"/"+pod.Name, "podUID", pod.UID, "error", err.Error())
		}
	}
	for key, d := range work {
		err := b.Gate.Do(ctx, "refresh", func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, readDeadline)
			defer cancel()
			return b.Stager.Refresh(ctx, d.user, key, d.members)
		})
		if err != nil {
			f.retryAt[key] = f.clock.Now().Add(refreshPause)
			b.Log.Info("could not hand over newer contents of volumes", "key", key, "user", d.user, "error", err.Error())
			continue
		}
		for rank, r := range d.members {
			known := f.pods[d.uids[rank]]
			known.given, known.at, known.told = r.Update.Contents, f.clock.Now(), ""
		}
	}
	f.prune()
}

// freshContents gives what the pod's volumes should hold, nil when they do.
func (b *Bridge) freshContents(ctx context.Context, pod *corev1.Pod, p lifecycle.Pod, known *podContents, dir collected, rank int) (*translate.Refresh, error) {
	f, now := b.fresh, b.Clock.Now()
	have := known.given
	st, started := dir.gang.Pods[rank]
	if started = started && st.UID == p.UID; started {
		if st.Phase.Terminal() {
			return nil, nil
		}
		if now.Sub(known.at) > takenWait || known.at.IsZero() {
			have = st.Contents
		}
	}
	acct, err := b.accountOf(pod)
	if err != nil {
		return nil, err
	}
	if acct.User != dir.user {
		return nil, nil // the namespace is another user's by now: nothing more goes to this one
	}
	vnode, ok := b.vnode(pod.Spec.NodeName)
	if !ok {
		vnode.Name = pod.Spec.NodeName
	}
	in := translate.Input{Cluster: b.Cluster, Node: vnode, Account: acct}
	b.identify(&in)
	b.offered(pod.Spec.NodeName, &in)
	configMaps, secrets := translate.VolumeReferences(pod, acct.ServiceAccountTokens)
	translated := func(from reader) (translate.Refresh, error) {
		member, err := b.resolve(ctx, from, acct, rank, pod, configMaps, secrets)
		if err != nil {
			return translate.Refresh{}, err
		}
		r, err := translate.Contents(in, member)
		var refusal *translate.Refusal
		if errors.As(err, &refusal) {
			err = &waiting{refusal.Reason, refusal.Error()}
		}
		return r, err
	}
	// Objects first: versions are those of what is read now.
	for _, ref := range configMaps {
		if _, err := f.ConfigMap(ctx, pod.Namespace, ref.Name); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	for _, ref := range secrets {
		if _, err := f.Secret(ctx, pod.Namespace, ref.Name); err != nil && !apierrors.IsNotFound(err) {
			return nil, err
		}
	}
	if inputs := f.versions(pod, acct, b.identity(acct.User), configMaps, secrets); inputs != known.inputs {
		r, err := translated(f)
		if err != nil {
			return nil, err
		}
		known.inputs, known.want = inputs, r.Update.Contents
	}
	if known.want.Digest == have.Digest && (known.want.RenewAt.IsZero() || now.Before(have.RenewAt.Time)) {
		return nil, nil
	}
	r, err := translated(issuing{f})
	if err != nil {
		return nil, err
	}
	return &r, nil
}

// noteStaged remembers what the members of a gang were staged with.
func (b *Bridge) noteStaged(out *translate.Output) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for i := range out.Pods {
		b.stagedWith[string(out.Pods[i].Pod.UID)] = out.Pods[i].Contents
	}
}

// takeStaged gives what a pod was staged with, once.
func (b *Bridge) takeStaged(uid string) (manifest.Contents, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.stagedWith[uid]
	delete(b.stagedWith, uid)
	return c, ok
}

// prune forgets what no live pod uses.
func (f *freshness) prune() {
	for key, o := range f.objects {
		if !o.used {
			delete(f.objects, key)
		}
		o.used = false
	}
	for uid, p := range f.pods {
		if !p.live {
			delete(f.pods, uid)
		}
		p.live = false
	}
	for key, at := range f.retryAt {
		if !f.clock.Now().Before(at) {
			delete(f.retryAt, key)
		}
	}
}

// identity is what the cluster says of a user.
func (b *Bridge) identity(user string) manifest.Identity {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ids[user]
}
