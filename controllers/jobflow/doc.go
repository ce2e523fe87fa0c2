// Package jobflow runs JobFlows: it makes a Job of each JobTemplate that a flow
// names, once those that it depends on have completed or answer their probes. Next
// decides and is pure; the Reconciler carries it out, and asks what the probes ask.
package jobflow
