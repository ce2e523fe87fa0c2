package launch

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

const (
	// limitMargin is left after the members' grace before the limit: for their last
	// words and ours.
	limitMargin = 15 * time.Second
	// staleUse is how old PBS's word of a job's use may be.
	staleUse = 2 * time.Minute
)

// limits are what the batch system says of a job's run time; 0 is unknown.
type limits struct {
	limit, used time.Duration
	left        time.Duration // that, exactly
}

// watchLimit closes near when the members must be told to end so that their grace
// is over before the batch system kills them at the run-time limit. It blocks
// until then or until ctx ends. Jobs without a grace or too short for one are not
// told.
func watchLimit(ctx context.Context, env []string, g *manifest.Gang, near chan<- struct{}) {
	began := time.Now()
	limit := time.Duration(g.LimitSeconds) * time.Second
	ask := func() limits { return limits{} }
	switch g.Launcher {
	case "slurm":
		ask = func() limits { return limits{left: askLeft(env)} }
	case launcherPBS, launcherTorque:
		ask = func() limits { return askLimits(env) }
		if limit == 0 { // the queue's own, perhaps
			limit = ask().limit
		}
	}
	grace := time.Duration(g.GraceSeconds) * time.Second
	if !warned(limit, grace) {
		return
	}
	for {
		timer := time.NewTimer(limit - grace - limitMargin - time.Since(began))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		// The limit may have been moved, and a suspended job's time stands still.
		now := ask()
		if more := now.left - grace - limitMargin; more >= time.Second {
			limit, began = now.left, time.Now()
			continue
		}
		if now.limit > limit {
			limit = now.limit
			continue
		}
		if now.limit > 0 && now.used > 0 {
			if more := now.limit - now.used - grace - limitMargin - staleUse; more > 0 {
				began = began.Add(more)
				continue
			}
		}
		close(near)
		return
	}
}

// warned reports whether a job of that limit is told at all: a short one would
// begin with it.
func warned(limit, grace time.Duration) bool { return grace > 0 && limit >= 2*(grace+limitMargin) }

// askLimits asks PBS; it gives nothing where that cannot be.
func askLimits(env []string) limits {
	text, ok := askJob(env, value(env, "PBS_JOBID"))
	if !ok {
		return limits{}
	}
	return parseLimits(text)
}

// askLeft asks Slurm how long the job has; 0 where it cannot be asked.
func askLeft(env []string) time.Duration {
	text, ok := output(env, "squeue", "--noheader", "--format=%L", "--jobs="+value(env, "SLURM_JOB_ID"))
	if !ok {
		return 0
	}
	days, rest, ok := strings.Cut(strings.TrimSpace(text), "-") // D-HH:MM:SS, or less of it
	if !ok {
		return parseClock(days)
	}
	return parseClock(days + ":" + rest)
}

// parseLimits reads the walltimes of qstat -f.
func parseLimits(text string) (l limits) {
	for line := range strings.Lines(text) {
		name, v, ok := strings.Cut(strings.TrimSpace(line), " = ")
		if !ok || !strings.HasPrefix(line, "    ") {
			continue
		}
		switch name {
		case "Resource_List.walltime":
			l.limit = parseClock(v)
		case "resources_used.walltime":
			l.used = parseClock(v)
		}
	}
	return l
}

// parseClock reads [[D:]H:M:]S; 0 is what cannot be read.
func parseClock(text string) time.Duration {
	units := []time.Duration{time.Second, time.Minute, time.Hour, 24 * time.Hour}
	parts := strings.Split(text, ":")
	if len(parts) > len(units) {
		return 0
	}
	var d time.Duration
	for i, p := range parts {
		n, err := strconv.ParseUint(p, 10, 31)
		if err != nil {
			return 0
		}
		d += time.Duration(n) * units[len(parts)-1-i]
	}
	return d
}
