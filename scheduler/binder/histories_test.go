package binder_test

import (
	"os"
	"runtime/debug"
	"strconv"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// seeds is how many histories are tried: 500, or what ISTHMUS_SIMULATED_SEEDS says.
func seeds(t *testing.T) int {
	text := os.Getenv("ISTHMUS_SIMULATED_SEEDS")
	if text == "" {
		return 500
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 {
		t.Fatalf("ISTHMUS_SIMULATED_SEEDS=%q is not a positive number", text)
	}
	return n
}

// TestCacheInHistories plays random histories with the real cache, cycle and binder
// against a simulated API server that is late, by minutes too, fails, and whose watches are cut: what
// the cache has kept up to date is at every moment what a new one would say (R7), no
// node is over-committed, gangs are whole soon after the last fault (R6), nobody is
// sent away in vain (R8), nobody starves (R9), and a restart at any point loses and
// doubles nothing. A failure is shown as the shortest history that still fails.
func TestCacheInHistories(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(400)) // many small worlds, of which none stays
	var cycles, events, starts, hit, sent, doubted int
	for seed := range seeds(t) {
		script, closely := draw(seed)
		run := func(script []op) (*world, error) {
			w := newWorld(schedtest.Pipeline(), nil)
			w.closely = closely
			return w, play(w, script)
		}
		w, err := run(script)
		if err != nil {
			script, err = shrink(script, err, func(s []op) error { _, err := run(s); return err })
			t.Fatalf("seed %d: %v\n%s", seed, err, lines(script))
		}
		cycles, events, starts, hit, sent, doubted = cycles+w.cycles, events+w.events, starts+w.starts, hit+w.api.hit, sent+w.sent, doubted+w.doubted
	}
	if seeds(t) >= 100 && (sent == 0 || hit == 0 || doubted == 0) {
		t.Errorf("%d pods were sent away, %d calls failed, and %d bindings were asked about", sent, hit, doubted)
	}
	t.Logf("%d histories: %d cycles, %d events told, %d schedulers, %d calls that failed, %d pods sent away, %d bindings asked about", seeds(t), cycles, events, starts, hit, sent, doubted)
}
