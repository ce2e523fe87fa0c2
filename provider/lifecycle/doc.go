// Package lifecycle decides what happens next to one gang attempt on a virtual
// node: the held-submit protocol as a pure function. It performs nothing and
// reads no clock; the provider carries its actions out and asks again.
//
// The protocol makes a double run impossible without any token from the batch
// system:
//
//  1. intent: the gang's key is written on every member, with the finalizer; where
//     a PodGroup makes the gang, on the lowest of them first, see claim.go;
//  2. observe by key, and adopt what is found;
//  3. submit HELD, with the gang's directory staged and, where the cluster asks
//     for that, its images pulled;
//  4. record the job id on every member, the lowest rank first: its record is
//     the tie-breaker between two daemons;
//  5. release only the recorded id, and only once all members carry it;
//  6. observe until there is terminal evidence, then let go of the pod.
//
// An unrecorded job never runs, so it may be abandoned at any time: the sweep
// of the provider cancels it. Every step may be repeated after a crash.
package lifecycle
