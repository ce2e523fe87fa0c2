package binder

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/isthmus-hpc/isthmus/scheduler/cache"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
)

// What is said of a gang's claims stands on its PodGroup and on its first pod, which is
// where somebody looks who knows of no PodGroup; on the pod alone where there is none of
// Volcano's kind.
func TestClaimsAreToldOnPodsToo(t *testing.T) {
	for gang, want := range map[string][]string{
		"podgroup/ns/g": {"Pod", "PodGroup"},
		"native/ns/g":   {"Pod"},
	} {
		events := record.NewFakeRecorder(8)
		events.IncludeObject = true
		b := New(Config{Cache: cache.New(), Events: events})
		b.tell(&preparation{
			placement: plan.Placement{Gang: gang, GangUID: "g", Namespace: "ns", Name: "g"},
			pods:      []*bindTask{{bind: plan.Bind{Namespace: "ns", Name: "a", UID: "a"}}, {bind: plan.Bind{Namespace: "ns", Name: "b", UID: "b"}}},
		}, corev1.EventTypeNormal, "WaitingForClaims", "words")
		close(events.Events)
		var got []string
		for e := range events.Events {
			_, about, _ := strings.Cut(e, "{kind=")
			kind, _, _ := strings.Cut(about, ",")
			got = append(got, kind)
		}
		if slices.Sort(got); !slices.Equal(got, want) {
			t.Errorf("%s: told on %v, want %v", gang, got, want)
		}
	}
}
