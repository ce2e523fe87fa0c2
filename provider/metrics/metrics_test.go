package metrics_test

import (
	"context"
	"errors"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/effect"
	"github.com/isthmus-hpc/isthmus/provider/metrics"
)

// Every name that is served is in the chart's README, and no other.
func TestNamesAreListed(t *testing.T) {
	now := time.Unix(1000, 0)
	m := metrics.New(effect.Open{}, func() time.Time { return now }, func() metrics.State {
		return metrics.State{
			Observed: now.Add(-7 * time.Second), Reachable: true,
			Jobs: map[backends.State]int{backends.StatePending: 2}, Waiting: map[string]int{"BatchQueueFull": 3}, Ownerless: 1, Braked: true,
		}
	})
	refused := &backends.Error{Op: "submit", Kind: backends.KindDenied, Err: errors.New("secret text")}
	if err := m.Do(t.Context(), "submit", func(context.Context) error { return refused }); !errors.Is(err, refused) {
		t.Errorf("error %v", err)
	}
	m.Adopted()
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var served []string
	for _, f := range families {
		served = append(served, f.GetName())
		if strings.Contains(f.String(), "secret") {
			t.Errorf("an error's text is shown: %s", f)
		}
		if f.GetName() == "isthmus_vnode_observation_age_seconds" && f.GetMetric()[0].GetGauge().GetValue() != 7 {
			t.Errorf("age %s", f)
		}
		if f.GetName() == "isthmus_vnode_adopted_jobs_total" && f.GetMetric()[0].GetCounter().GetValue() != 1 {
			t.Errorf("adopted %s", f)
		}
	}
	readme, err := os.ReadFile("../../charts/isthmus/README.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `(isthmus_vnode_[a-z_]+)`").FindAllStringSubmatch(string(readme), -1) {
		listed = append(listed, m[1])
	}
	slices.Sort(served)
	slices.Sort(listed)
	if !slices.Equal(served, listed) || len(served) < 8 {
		t.Errorf("served %v\nlisted %v", served, listed)
	}
}
