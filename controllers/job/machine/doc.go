// Package machine is the Volcano Job state machine as a pure function: Next
// takes a Job, the pods and the PodGroup that belong to it and the time, and
// says what the status is and what is to be created and deleted.
//
// It is level-triggered: everything follows from the objects as they are now.
// A pod carries the Job's version in an annotation, and so does the PodGroup,
// so that "kill the whole job" is one durable number: after status.version was
// raised, every pod and PodGroup of a lower version has to go, however often
// the controller was restarted in between.
//
// The package imports no client, reads no clock, logs nothing and starts no
// goroutine. It never changes the objects it is given.
//
// Invariants: a finished job stays finished, the version never falls, the
// counts of the status add up to the number of pods, and no pod is created
// before the PodGroup was admitted to its queue.
package machine
