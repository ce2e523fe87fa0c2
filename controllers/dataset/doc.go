// Package dataset copies Datasets to where gangs of their namespace are to go. The
// scheduler asks for it with the annotation isthmus.sh/staging on PodGroups. For each
// BatchCluster that is asked for, and that spec.staging has as a target, the controller
// makes one Job that runs the user's program there, and keeps in the Dataset's status
// what came of it.
//
// Decisions are made by Next, a pure function; the Reconciler carries them out.
package dataset
