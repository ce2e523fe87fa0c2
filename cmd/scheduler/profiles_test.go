package main

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/record"
	"sigs.k8s.io/controller-runtime/pkg/client"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	schedconfig "github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// TestProfilesAreAdmittedAndFollowed uses a real API server: what the schema can
// tell is refused there, the rest is told as an event, and what is good is in
// force until it is deleted.
func TestProfilesAreAdmittedAndFollowed(t *testing.T) {
	plane := shared(t)
	types := runtime.NewScheme()
	if err := hpcv1alpha1.AddToScheme(types); err != nil {
		t.Fatal(err)
	}
	api, err := client.New(plane.Config, client.Options{Scheme: types})
	if err != nil {
		t.Fatal(err)
	}
	profile := func(name string, spec hpcv1alpha1.SchedulingProfileSpec) *hpcv1alpha1.SchedulingProfile {
		return &hpcv1alpha1.SchedulingProfile{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}
	}
	one := []string{"q"}
	plugins := func(names ...string) (out []hpcv1alpha1.ProfilePlugin) {
		for _, n := range names {
			out = append(out, hpcv1alpha1.ProfilePlugin{Name: n})
		}
		return out
	}
	for why, spec := range map[string]hpcv1alpha1.SchedulingProfileSpec{
		"one of actions and plugins is needed": {Queues: one},
		"no matter of one queue":               {Queues: one, Plugins: plugins("gang", "capacity")},
		"Duplicate value":                      {Queues: one, Plugins: plugins("gang", "gang")},
		"spec.queues":                          {Queues: []string{}, Plugins: plugins("gang")},
		"Unsupported value":                    {Queues: one, Actions: &[]string{"dance"}},
	} {
		if err := api.Create(t.Context(), profile("bad", spec)); err == nil || !strings.Contains(err.Error(), why) {
			t.Errorf("%+v gave %v, want %q", spec, err, why)
		}
	}
	used := make(chan framework.Pipeline, 100)
	events := record.NewFakeRecorder(100)
	p := &pipelines{use: func(p framework.Pipeline) { used <- p }, base: schedconfig.Default(), told: map[string]string{}, events: events}
	d, err := discovery.NewDiscoveryClientForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(plane.Config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	wait, err := p.watch(ctx, d, dyn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { cancel(); wait() }()

	good := profile("good", hpcv1alpha1.SchedulingProfileSpec{Queues: one, Actions: &[]string{}, Plugins: plugins("gang")})
	if err := api.Create(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	last := framework.Pipeline{}
	eventually := func(want string, ok func() bool) {
		t.Helper()
		controllertest.Eventually(t, 60*time.Second, func(context.Context) string {
			for len(used) > 0 {
				last = <-used
			}
			if ok() {
				return ""
			}
			return fmt.Sprintf("%s; the profiles are %+v", want, last.Profiles)
		})
	}
	eventually("the profile is in force", func() bool {
		pr, is := last.Profiles["q"]
		return is && len(pr.Actions) == 2 && len(pr.Plugins) > 0 && pr.Plugins[0].Name() == "gang"
	})
	wrong := profile("wrong", hpcv1alpha1.SchedulingProfileSpec{Queues: []string{"r"}, Plugins: plugins("magic")})
	if err := api.Create(t.Context(), wrong); err != nil {
		t.Fatal(err)
	}
	eventually("an event tells of the wrong profile", func() bool { return len(events.Events) > 0 })
	if e := <-events.Events; !strings.Contains(e, `spec.plugins[0].name: no plugin is named "magic"`) {
		t.Errorf("the event says %s", e)
	}
	if _, is := last.Profiles["r"]; is {
		t.Error("the wrong profile is in force")
	}
	// A mistake in an edit takes nothing away; another profile without actions that evict
	// keeps that, though it never was right.
	good.Spec.Plugins = plugins("binpak")
	if err := api.Update(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	eventually("an event tells of the wrong edit", func() bool { return len(events.Events) > 0 })
	if e := <-events.Events; !strings.Contains(e, "version 2 of the profile does not count, version 1 does") || !strings.Contains(e, `"binpak"`) {
		t.Errorf("the event says %s", e)
	}
	if pr, is := last.Profiles["q"]; !is || len(pr.Actions) != 2 || len(pr.Plugins) == 0 {
		t.Errorf("after the wrong edit the profiles are %+v", last.Profiles)
	}
	if err := api.Create(t.Context(), profile("half", hpcv1alpha1.SchedulingProfileSpec{Queues: []string{"h"}, Actions: &[]string{}, Plugins: plugins("magic")})); err != nil {
		t.Fatal(err)
	}
	eventually("the actions of a half right profile count", func() bool {
		pr, is := last.Profiles["h"]
		return is && len(pr.Actions) == 2 && len(pr.Plugins) == 0
	})
	if err := api.Delete(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	eventually("the profile is gone", func() bool { _, is := last.Profiles["q"]; return !is })
}
