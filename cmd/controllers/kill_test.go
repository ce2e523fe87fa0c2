package main

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

// asControllers makes the test program be the controllers: a process of its own that
// can be killed, from the same code.
const asControllers = "ISTHMUS_TEST_AS_CONTROLLERS"

// changes are the writes that a killed program is killed at.
func changes(q *http.Request) bool { return !strings.Contains(q.URL.Path, "/events") }

// TestKilledProgram kills the program itself with SIGKILL, each time at one of its
// writes, before the API server has it or after, and starts it again at once: all Jobs,
// JobFlows, CronJobs, Queues and PodGroups come to where they are to, no pod and no Job
// is made twice, and no retry is lost or counted twice. ISTHMUS_CONTROLLER_KILLS sets
// how many are killed at least.
func TestKilledProgram(t *testing.T) {
	plane := shared(t)
	kills := number("ISTHMUS_CONTROLLER_KILLS", 1)
	seed := uint64(number("ISTHMUS_SEED", 1))
	killed := 0
	for round := 0; killed < kills; round++ {
		random := rand.New(rand.NewPCG(seed, uint64(round))) //nolint:gosec // a seed that can be given again
		w := newWorld(t, plane)
		over := time.Now().Add(4 * time.Minute)
		most := 24
		if kills > 1 { // every other round dies at nearly every write
			most = 3 + 21*(round%2)
		}
		lives := 0
		for ; w.lacks(t.Context()) != ""; lives++ {
			f := controllertest.Fate{Of: changes, At: 1 + random.IntN(most), After: random.IntN(2) == 0, Signal: syscall.SIGKILL}
			if !live(t, plane, w, f, over) {
				break
			}
			killed++
		}
		if lack := w.lacks(t.Context()); lack != "" {
			t.Fatalf("seed %d, round %d: after %d lives: %s", seed, round, lives, lack)
		}
		t.Logf("seed %d, round %d: %d were killed at writes", seed, round, lives)
		if lives < 2 {
			t.Errorf("seed %d, round %d: %d were killed before all had come to its end", seed, round, lives)
		}
		w.right(t)
		w.remove(t.Context())
	}
}

// live runs the program until it is killed, or until nothing is left to do, and says
// which.
func live(t *testing.T, plane *controllertest.Plane, w *world, f controllertest.Fate, over time.Time) (killed bool) {
	t.Helper()
	p := plane.StartProgram(t, f, asControllers, "--leader-elect=false", "--workers=4")
	defer p.Kill()
	ctx, cancel := context.WithDeadline(t.Context(), over)
	defer cancel()
	for {
		select {
		case <-p.Exited():
			if !p.Fated() {
				t.Fatalf("the controllers ended by themselves:\n%s", p.Tail())
			}
			return true
		case <-ctx.Done():
			t.Fatalf("the time is over; the controllers, to die at write %d, have sent %d writes: %s\n%s", f.At, p.Sent(), w.lacks(t.Context()), p.Tail())
		case <-time.After(100 * time.Millisecond):
			if w.lacks(ctx) == "" {
				return false
			}
		}
	}
}
