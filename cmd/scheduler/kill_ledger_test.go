package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/test/testbed/fetch"
)

const (
	// mostPartial is how long a gang may be partial under a scheduler that acts: a
	// cycle and 5 seconds, as processor time of that scheduler. A busy machine makes a
	// clock useless for this; a scheduler that does nothing is found by the wait for
	// all gangs to be whole.
	mostPartial = 6 * time.Second
	kernelTick  = 10 * time.Millisecond
)

// partials tells how long gangs are partial, by the present scheduler's work. How
// long there was none, or it was starting, is not its doing.
type partials struct {
	by     atomic.Pointer[runner]
	since  map[string]since
	oldest time.Duration
}

type since struct {
	by *runner
	at time.Duration
}

// look takes in which gangs are partial now and returns an error when one has been
// for too long.
func (p *partials) look(now []string) error {
	r := p.by.Load()
	if r == nil || r.Sent() == 0 {
		p.since = nil
		return nil
	}
	at, ok := r.processor()
	if !ok {
		return nil // it has ended
	}
	next := map[string]since{}
	for _, g := range now {
		was, seen := p.since[g]
		if !seen || was.by != r {
			was = since{r, at}
		}
		next[g] = was
		p.oldest = max(p.oldest, at-was.at)
		if at-was.at > mostPartial {
			return fmt.Errorf("gang %s has been partial for %v of the scheduler's work:\n%s", g, at-was.at, r.Tail())
		}
	}
	p.since = next
	return nil
}

// processor is the processor time that the scheduler has taken.
func (r *runner) processor() (time.Duration, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", r.Process().Pid))
	if err != nil {
		return 0, false
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	words := strings.Fields(rest)
	if len(words) < 13 {
		return 0, false
	}
	user, err1 := strconv.ParseInt(words[11], 10, 64)
	system, err2 := strconv.ParseInt(words[12], 10, 64)
	return time.Duration(user+system) * kernelTick, err1 == nil && err2 == nil
}

// metrics reads what the scheduler shows of itself, by name and labels.
func (r *runner) metrics(ctx context.Context) (map[string]float64, error) {
	address, err := r.serving("metrics")
	if err != nil {
		return nil, err
	}
	text, err := fetch.Text(ctx, "http://"+address+"/metrics")
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok && !strings.HasPrefix(name, "#") {
			if v, err := strconv.ParseFloat(value, 64); err == nil {
				out[name] = v
			}
		}
	}
	return out, nil
}

// serving is the address that the scheduler's log says it serves something on.
func (r *runner) serving(what string) (string, error) {
	f, err := os.Open(r.Log)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		var line struct{ Msg, What, Address string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Msg == "serving" && line.What == what {
			return line.Address, nil
		}
	}
	return "", errors.Join(fmt.Errorf("no address for %s is in the log", what), lines.Err())
}

// agrees waits until what the scheduler counts as held is what a recount of the
// pods in the API gives, and until its own recount has been made once more after
// that and found no difference.
func (w *world) agrees(t *testing.T, r *runner) {
	t.Helper()
	const held, differences, audits = `volcano_queue_allocated_scalar_resources{queue_name="default",resource="nvidia.com/gpu"}`, "isthmus_scheduler_ledger_differences", "isthmus_scheduler_ledger_audits_total"
	ctx, cancel := context.WithTimeoutCause(t.Context(), patience, errors.New("the time is over"))
	defer cancel()
	said, counted := "", -1.0 // recounts when both agreed for the first time
	for ctx.Err() == nil {
		var pods corev1.PodList
		if err := w.plane.Client.List(ctx, &pods, client.InNamespace(w.namespace)); err != nil {
			said = err.Error()
		} else if m, err := r.metrics(ctx); err != nil {
			said = err.Error()
		} else {
			there := 0
			for _, p := range pods.Items {
				if p.Spec.NodeName != "" {
					there++
				}
			}
			if m[differences] != 0 {
				t.Fatalf("the scheduler's ledger differs from its pods in %v ways:\n%s", m[differences], r.Tail())
			}
			switch {
			case m[held] != float64(there):
				counted = -1
				said = fmt.Sprintf("the scheduler counts %v GPUs as held, the pods hold %d", m[held], there)
			case counted >= 0 && m[audits] > counted:
				return
			default:
				counted = max(counted, m[audits])
				said = fmt.Sprintf("%v recounts were made, and none since all is bound", m[audits])
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatalf("%v: %s\n%s", context.Cause(ctx), said, r.Tail())
}
