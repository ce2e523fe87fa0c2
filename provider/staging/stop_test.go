package staging_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
)

func TestStopIsOneOrderAGang(t *testing.T) {
	c, r := client()
	stops := map[int]manifest.Stop{}
	for rank := range 512 {
		stops[rank] = manifest.Stop{GraceSeconds: int64(rank), Reason: "gone\nby\x00bye"}
	}
	stops[7] = manifest.Stop{GraceSeconds: -5}
	if err := c.Stop(t.Context(), "alice", "iabc", stops); err != nil {
		t.Fatal(err)
	}
	var o manifest.StopOrder
	if err := json.Unmarshal(r.stdin, &o); err != nil || o.Key != "iabc" || len(o.Stops) != 512 {
		t.Fatalf("the order is %.200q: %v", r.stdin, err)
	}
	if o.Stops[3].GraceSeconds != 3 || o.Stops[3].Reason != "gone by bye" || o.Stops[7].GraceSeconds != 0 {
		t.Errorf("stops %+v, %+v", o.Stops[3], o.Stops[7])
	}
	if len(r.got) != 1 {
		t.Errorf("%d commands were run", len(r.got))
	}
	for key, kind := range map[backends.Key]backends.Kind{"gone": backends.KindInvalid, "mute": backends.KindTransient} {
		if err := c.Stop(t.Context(), "alice", key, stops); backends.KindOf(err) != kind || errors.Is(err, staging.ErrNotFound) != (key == "gone") {
			t.Errorf("stop of %s: %v, want kind %s", key, err, kind)
		}
	}
}

// slowRunner holds the first command until all orders but that one wait.
type slowRunner struct {
	mu     sync.Mutex
	inner  *runner
	enough chan struct{}
}

func (s *slowRunner) Run(ctx context.Context, c transport.Command) (transport.Result, error) {
	<-s.enough
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.inner.Run(ctx, c)
}

// Many gangs that are deleted together cost few commands.
func TestStopsGoTogether(t *testing.T) {
	c, r := client()
	slow := &slowRunner{inner: r, enough: make(chan struct{})}
	c.Runner = slow
	const gangs = 300
	var all, ready sync.WaitGroup
	errs := make([]error, gangs)
	for i := range gangs {
		ready.Add(1)
		all.Go(func() {
			ready.Done()
			errs[i] = c.Stop(t.Context(), "alice", backends.Key(fmt.Sprintf("k%d", i)), map[int]manifest.Stop{0: {GraceSeconds: 30}})
		})
	}
	ready.Wait()
	close(slow.enough)
	all.Wait()
	for i, err := range errs {
		if err != nil {
			t.Errorf("gang %d: %v", i, err)
		}
	}
	// A few commands begin before the others wait, on a busy machine.
	if n := len(r.got); n > gangs/3 {
		t.Errorf("%d commands for %d gangs", n, gangs)
	}
	if argv := strings.Join(r.got[0].Argv, " "); strings.Contains(argv, "k0") {
		t.Errorf("the order is in the command line %q", argv)
	}
}
