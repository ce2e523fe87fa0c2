package backendtest

import "testing"

// testCase is one promise of the contract.
type testCase struct {
	name string
	// loses is what a user loses when a backend breaks the promise; it is
	// printed when the case fails.
	loses string
	// unless gives the reason why the case does not apply; "" runs it.
	unless func(Harness) string
	run    func(*testing.T, *bench)
}

func cases() []testCase {
	return []testCase{
		{name: "held job never runs", run: heldNeverRuns,
			loses: "after a crash between submit and record the job runs unseen, and then once more: results are overwritten"},
		{name: "release runs the job once", run: releaseRunsOnce,
			loses: "the pod never starts, or its program runs twice"},
		{name: "release is safe to repeat", run: releaseIsIdempotent,
			loses: "a lost reply to release ends in an error for ever, or in a second run"},
		{name: "submit echoes in observe", run: observeEchoes,
			loses: "a restarted daemon cannot recognise its jobs by key and submits them again"},
		{name: "jobs are found again by a new daemon", run: foundAfterReopen,
			loses: "a restart of the daemon forgets jobs: they run on unowned and their pods never end"},
		{name: "cancel a held job", run: cancelHeld,
			loses: "a deleted pod's job stays in the queue for ever, or runs later"},
		{name: "cancel a queued job", run: cancelQueued,
			loses: "a deleted pod's job starts hours after its user gave it up"},
		{name: "cancel a running job, terminate signal first", run: cancelRunning,
			loses: "programs are killed before they can save a checkpoint, or burn hours after deletion"},
		{name: "cancel kills after the grace", run: cancelKills,
			loses: "a program that ignores the terminate signal holds its GPUs until the walltime"},
		{name: "cancel an ended job", run: cancelEnded,
			loses: "deleting a finished pod fails or rewrites how its job ended"},
		{name: "cancel an unknown job", run: cancelUnknown,
			loses: "a pod whose job the batch system forgot can never be deleted"},
		{name: "cancel is safe to repeat", run: cancelTwice,
			loses: "a lost reply to cancel blocks the pod's deletion"},
		{name: "exit code", run: exitCode,
			loses: "kubectl shows success for a failed job or the wrong exit code, and retry policies decide wrongly"},
		{name: "signal", run: endsBySignal,
			loses: "a crash looks like an ordinary exit"},
		{name: "batch log in the work dir", run: batchLog,
			unless: func(h Harness) string { return ifTrue(h.Log == nil, "this backend has no real files") },
			loses:  "a launcher that fails leaves nothing to read"},
		{name: "run-time limit", run: walltime,
			unless: func(h Harness) string {
				return ifTrue(h.Walltime == 0, "the shortest limit of this backend is too long to wait for")
			},
			loses: "a hung job holds its hosts for ever, or is reported as failed for no reason"},
		{name: "observe lists one owner only", run: observeByOwner,
			loses: "one cluster's daemon cancels the jobs of another as orphans"},
		{name: "observe is ordered and costs one query", run: observeOnce,
			loses: "the login node is flooded with queries, and the site bans the account"},
		{name: "gang waits whole", run: gangWaitsWhole,
			loses: "half a gang holds GPUs while it waits for the other half"},
		{name: "gang larger than the partition", run: tooLarge,
			loses: "the user is not told why the job never starts, or a part of it does"},
		{name: "unequal components start together", run: heterogeneous,
			unless: notHeterogeneous,
			loses:  "the launcher starts without its workers"},
		{name: "unequal components wait together", run: heterogeneousWaits,
			unless: notHeterogeneous,
			loses:  "the first component runs alone and burns its time limit"},
		{name: "one key, two jobs", run: sameKey,
			loses: "a submit whose reply was lost and its repetition become one id, so that one of them is never cancelled"},
		{name: "one key runs one job at a time", run: singleton,
			unless: func(h Harness) string {
				return ifTrue(!h.Singleton, "this backend does not promise it; the recorded id alone prevents double runs")
			},
			loses: "two daemons that both believe in their record run the job twice at once"},
		{name: "a job after others", run: after,
			loses: "a step of a workflow starts on half of what the one before it should have written"},
		{name: "unknown partition is invalid", run: unknownPartition,
			loses: "a typing error is retried for ever and the user is not told"},
		{name: "invalid specs are refused", run: invalidSpecs,
			loses: "text from a pod reaches the batch system's options"},
		{name: "licences", run: licenses,
			loses: "jobs start without the licences that they need, and fail"},
		{name: "switches", run: switches,
			loses: "a gang is spread over the cluster although its user asked for one switch, or never starts"},
		{name: "reservations", run: reservations,
			unless: func(h Harness) string {
				return ifTrue(!h.Backend.Capabilities().Reserve, "this backend makes no reservations")
			},
			loses: "hosts that are reserved are never given back, somebody else's reservation is deleted, or jobs die when theirs is over"},
		{name: "shares of a GPU", run: shards,
			loses: "more pods are put on a GPU than it has room for, or whole hosts wait for one"},
		{name: "hostile directory names", run: hostileNames,
			loses: "jobs of users with unusual names fail, or a name is executed as a command"},
		{name: "an ended context is an error", run: endedContext,
			loses: "one hanging call stops the daemon for all users"},
		{name: "concurrent submits", run: concurrentSubmits,
			loses: "two pods share a job: one of them never ran, and deleting it kills the other"},
		{name: "inventory", run: inventory,
			loses: "the virtual node shows no capacity, so that nothing is ever scheduled"},
	}
}

// Run runs the suite as subtests; newBackend is called once for each and once
// before, to ask what applies, and may give the same batch system every time. A
// case that does not apply is no subtest: the log names it with the reason.
func Run(t *testing.T, newBackend func(t *testing.T) Harness) {
	t.Helper()
	promises := newBackend(t)
	for _, c := range cases() {
		if c.unless != nil {
			if why := c.unless(promises); why != "" {
				t.Logf("%q does not apply: %s", c.name, why)
				continue
			}
		}
		t.Run(c.name, func(t *testing.T) {
			h := newBackend(t)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("what a user loses: %s", c.loses)
				}
			})
			c.run(t, newBench(t, h))
		})
	}
}

func notHeterogeneous(h Harness) string {
	return ifTrue(!h.Backend.Capabilities().Heterogeneous, "this backend runs plain jobs only")
}

func ifTrue(cond bool, reason string) string {
	if cond {
		return reason
	}
	return ""
}
