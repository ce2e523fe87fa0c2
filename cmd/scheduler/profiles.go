package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	kcache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	schedconfig "github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// pipelines puts the configuration and the SchedulingProfiles together.
type pipelines struct {
	use    func(framework.Pipeline)
	events record.EventRecorder
	denied func(kind string) bool // nil when nothing is

	mu       sync.Mutex
	base     framework.Pipeline
	profiles map[string]framework.Profile
	told     map[string]string   // what was last said of a profile, by UID
	good     map[string]honoured // what last counted of a profile, by UID
}

// honoured is a version of a profile that is right.
type honoured struct {
	profile    framework.Profile
	queues     []string
	generation int64
}

// configure takes in another configuration.
func (p *pipelines) configure(base framework.Pipeline) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.base = base
	p.apply()
}

func (p *pipelines) apply() {
	out := p.base
	out.Profiles = p.profiles
	p.use(out)
}

// set takes in all profiles there are. One that is wrong is told as an event; the last
// version of it that was right counts on, or its actions where none is known: a mistake
// in an edit must not have the pods of its queues evicted. Of two for one queue the
// older counts.
func (p *pipelines) set(log logr.Logger, all []*hpcv1alpha1.SchedulingProfile) {
	slices.SortFunc(all, func(a, b *hpcv1alpha1.SchedulingProfile) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.profiles = map[string]framework.Profile{}
	owner := map[string]string{}
	told := map[string]string{}
	good := map[string]honoured{}
	for _, sp := range all {
		counts, says := p.read(sp)
		if counts.right {
			good[string(sp.UID)] = counts.honoured
		}
		for _, q := range counts.queues {
			if first := owner[q]; first != "" {
				says = append(says, fmt.Sprintf("queue %q has the older profile %s, which counts", q, first))
				continue
			}
			owner[q], p.profiles[q] = sp.Name, counts.profile
		}
		message := strings.Join(says, "; ")
		told[string(sp.UID)] = message
		if message != "" && p.told[string(sp.UID)] != message {
			log.Info("scheduling profile", "profile", sp.Name, "warning", message)
			p.events.Event(sp, corev1.EventTypeWarning, "ProfileNotHonoured", message)
		}
	}
	p.told, p.good = told, good
	p.apply()
}

// counted is what counts of a profile; right says that it is a version without mistakes.
type counted struct {
	honoured
	right bool
}

// read says what counts of a profile, and what there is to say about it.
func (p *pipelines) read(sp *hpcv1alpha1.SchedulingProfile) (counted, []string) {
	spec := profileSpec(sp)
	profile, warnings, err := schedconfig.Profile(spec)
	if err == nil {
		return counted{honoured{profile, sp.Spec.Queues, sp.Generation}, true}, warnings
	}
	if last, is := p.good[string(sp.UID)]; is {
		return counted{last, true}, []string{fmt.Sprintf("version %d of the profile does not count, version %d does until it is put right: %v", sp.Generation, last.generation, err)}
	}
	if spec.Actions != nil {
		spec.Plugins = nil
		if actions, _, wrong := schedconfig.Profile(spec); wrong == nil {
			return counted{honoured{actions, sp.Spec.Queues, sp.Generation}, false}, []string{"of the profile its actions alone count: " + err.Error()}
		}
	}
	return counted{}, []string{"the profile does not count: " + err.Error()}
}

func profileSpec(sp *hpcv1alpha1.SchedulingProfile) schedconfig.ProfileSpec {
	out := schedconfig.ProfileSpec{Name: string(sp.UID)}
	if sp.Spec.Actions != nil {
		out.Actions = slices.Clone(*sp.Spec.Actions)
		if out.Actions == nil {
			out.Actions = []string{}
		}
	}
	for _, pl := range sp.Spec.Plugins {
		out.Plugins = append(out.Plugins, schedconfig.ProfilePlugin{Name: pl.Name, Arguments: pl.Arguments})
	}
	return out
}

// watch follows the SchedulingProfiles until ctx ends and returns when the first
// listing is in force. Where the API server has no such kind, or they may not be read,
// there are none.
func (p *pipelines) watch(ctx context.Context, d discovery.DiscoveryInterface, client dynamic.Interface) (wait func(), err error) {
	log := logr.FromContextOrDiscard(ctx)
	kinds, err := d.ServerResourcesForGroupVersion(hpcv1alpha1.GroupVersion.String())
	switch {
	case apierrors.IsNotFound(err):
		kinds = &metav1.APIResourceList{}
	case err != nil:
		return nil, fmt.Errorf("ask for the API's resources: %w", err)
	}
	if !slices.ContainsFunc(kinds.APIResources, func(r metav1.APIResource) bool { return r.Name == "schedulingprofiles" }) {
		log.Info("the API server has no SchedulingProfiles; the configuration is for all queues")
		return func() {}, nil
	}
	factory := dynamicinformer.NewDynamicSharedInformerFactory(client, 0)
	informer := factory.ForResource(hpcv1alpha1.GroupVersion.WithResource("schedulingprofiles"))
	changed := func(any) {
		objects, err := informer.Lister().List(labels.Everything())
		if err != nil {
			log.Error(err, "list scheduling profiles")
			return
		}
		var all []*hpcv1alpha1.SchedulingProfile
		for _, o := range objects {
			u, ok := o.(*unstructured.Unstructured)
			sp := &hpcv1alpha1.SchedulingProfile{}
			if !ok {
				continue
			}
			if err := runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, sp); err != nil {
				log.Error(err, "read scheduling profile", "profile", u.GetName())
				continue
			}
			all = append(all, sp)
		}
		p.set(log, all)
	}
	handler := kcache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(_, now any) { changed(now) }, DeleteFunc: changed}
	if err := informer.Informer().SetWatchErrorHandlerWithContext(cache.Quietly); err != nil {
		return nil, fmt.Errorf("set error handler: %w", err)
	}
	registered, err := informer.Informer().AddEventHandler(handler)
	if err != nil {
		return nil, fmt.Errorf("watch scheduling profiles: %w", err)
	}
	factory.Start(ctx.Done())
	ready := func() bool {
		return registered.HasSynced() || p.denied != nil && p.denied("schedulingprofiles."+hpcv1alpha1.GroupVersion.Group)
	}
	if !kcache.WaitForCacheSync(ctx.Done(), ready) {
		return factory.Shutdown, fmt.Errorf("list scheduling profiles: %w", context.Cause(ctx))
	}
	return factory.Shutdown, nil
}
