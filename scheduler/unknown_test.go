package scheduler_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/schedtest"
)

// A gang of which nobody knows how long it runs waits behind a planned start, and
// passes where the configuration says so, as in Volcano.
func TestUnknownRunTimesMayPass(t *testing.T) {
	for argument, passes := range map[string]bool{"wait": false, "pass": true} {
		c, _, err := config.Parse([]byte(config.Standard + "configurations: [{name: backfill, arguments: {unknownRunTimes: " + argument + "}}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		w := schedtest.NewWorld()
		for _, line := range []string{
			"node n1 cpu=8 gpu=4", "group a min=1 estimate=2h", "pods a w 1 gpu=2", "cycle", "run a",
			"group big min=1 estimate=1h", "pods big w 1 gpu=4", "group unknown min=1", "pods unknown w 1 gpu=1",
		} {
			if _, err := w.Do(line); err != nil {
				t.Fatal(err)
			}
		}
		p := scheduler.Cycle(c.Pipeline(), w.Snapshot(), w.Now).String()
		if strings.Contains(p, "place unknown") != passes || !strings.Contains(p, "head big") {
			t.Errorf("%s: unknown run times pass is to be %t:\n%s", argument, passes, p)
		}
	}
}
