package scheduler_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// arrival is a gang that comes at a minute and runs for as many as it says.
type arrival struct{ at, size, gpus, minutes int }

func (a arrival) String() string {
	return fmt.Sprintf("at %dm: %d pods x %d gpus for %dm", a.at, a.size, a.gpus, a.minutes)
}

func arrivals(r *rand.Rand) []arrival {
	var out []arrival
	at := 0
	for range 8 + r.IntN(8) {
		at += r.IntN(10)
		out = append(out, arrival{at, 1 + r.IntN(3), 1 + r.IntN(4), 1 + r.IntN(40)})
	}
	return out
}

// kept plays arrivals in one queue on nodes of 4 GPUs, all of whom run for exactly as
// long as they said, and returns an error when a planned start is put off by gangs that
// come after it: it may be later than it was told before only if one with an earlier
// turn was placed since, where it found its place. passed counts those that went before
// a gang that waits.
func kept(pipe framework.Pipeline, list []arrival) (passed int, err error) {
	w := schedtest.NewWorld()
	for i := range 3 {
		if _, err := w.Do(fmt.Sprintf("node n%d cpu=64 gpu=4", i)); err != nil {
			return 0, err
		}
	}
	begin := w.Now
	promised := map[string]int64{}
	left := slices.Clone(list)
	for minute := 0; minute < 2000; minute++ {
		w.Now = begin.Add(time.Duration(minute) * time.Minute)
		before := len(left)
		for len(left) > 0 && left[0].at <= minute {
			name := fmt.Sprintf("g%02d", len(list)-len(left))
			for _, line := range []string{
				fmt.Sprintf("group %s min=%d estimate=%dm", name, left[0].size, left[0].minutes),
				fmt.Sprintf("pods %s w %d cpu=1 gpu=%d", name, left[0].size, left[0].gpus),
			} {
				if _, err := w.Do(line); err != nil {
					return 0, err
				}
			}
			left = left[1:]
		}
		waiting, news := 0, len(left) != before
		for _, g := range w.Gangs {
			if first := g.Pods[0]; first.Phase == snapshot.PodRunning && w.Now.UnixNano() >= first.StartedAt+g.Estimate {
				w.Finish(g.Name)
				news = true
			} else if first.Node == "" {
				waiting++
			}
		}
		if waiting == 0 && len(left) == 0 {
			return passed, nil
		}
		if !news {
			continue
		}
		p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
		w.Apply(p)
		if err := onTime(w, p, promised); err != nil {
			return passed, fmt.Errorf("minute %d: %w\n%s", minute, err, p)
		}
		for _, pl := range p.Placements {
			for _, pod := range w.Gang(pl.Name).Pods {
				pod.Phase, pod.StartedAt = snapshot.PodRunning, w.Now.UnixNano()
			}
			if slices.ContainsFunc(p.Heads, func(h plan.Head) bool { return h.Gang < pl.Gang }) {
				passed++
			}
		}
	}
	return passed, fmt.Errorf("gangs wait for ever")
}

// onTime compares what is planned now with what was told before.
func onTime(w *schedtest.World, p plan.Plan, promised map[string]int64) error {
	for _, pl := range p.Placements {
		maps.DeleteFunc(promised, func(key string, _ int64) bool { return key >= pl.Gang })
	}
	for _, h := range p.Heads {
		if was, ok := promised[h.Gang]; ok && h.At > was {
			return fmt.Errorf("%s was to start at %s, and now at %s", h.Gang, time.Unix(0, was).UTC().Format("15:04"), time.Unix(0, h.At).UTC().Format("15:04"))
		}
		if !h.Guessed {
			promised[h.Gang] = h.At
		}
	}
	for key, at := range promised {
		g := w.Gang(strings.TrimPrefix(key, "podgroup/default/"))
		if g.Pods[0].Node == "" && w.Now.UnixNano() > at {
			return fmt.Errorf("%s was to start at %s, and has not", key, time.Unix(0, at).UTC().Format("15:04"))
		}
	}
	return nil
}

// TestPlannedStartsAreKept: as long as everybody runs for as long as was said, no gang
// with a planned start is put off by one that passes it: with one head (EASY), two,
// and all (conservative).
func TestPlannedStartsAreKept(t *testing.T) {
	for name, arguments := range map[string]string{"EASY": "", "two heads": "heads: 2", "conservative": "conservative: true"} {
		t.Run(name, func(t *testing.T) {
			pipe := pipelineOf(t, config.Standard+"configurations:\n- name: backfill\n  arguments: {"+arguments+"}\n")
			passed := 0
			for seed := range max(seeds(t)/5, 1) {
				list := arrivals(rand.New(rand.NewPCG(uint64(seed), 4)))
				n, err := kept(pipe, list)
				passed += n
				if err == nil {
					continue
				}
				for i := 0; i < len(list); { // the shortest list that still fails
					shorter := slices.Delete(slices.Clone(list), i, i+1)
					if _, e := kept(pipe, shorter); e != nil {
						list, err = shorter, e
					} else {
						i++
					}
				}
				t.Fatalf("seed %d: %v\n%v", seed, err, list)
			}
			if passed == 0 {
				t.Error("nobody has passed anybody")
			}
			t.Logf("%d gangs passed others", passed)
		})
	}
}
