// Package tracing tells an OpenTelemetry collector what became of a gang, from
// the binding of its pods to the end of each container.
//
// A gang attempt is one trace. Its ids follow from the gang's key and the pods'
// UIDs alone, so that a daemon that was restarted goes on with the same trace
// and nothing has to be stored. Each pod has a root span; the effects on it, its
// wait in the batch queue, its run and its containers lie below. Effects on the
// whole gang lie below the pod with the lowest rank.
//
// Compute hosts send nothing: what happened there is told from the evidence that
// the provider reads anyway. Spans hold names, ids, times, exit codes and
// classes of errors; never the values of variables, arguments or error texts.
package tracing
