// Package controllers holds the controllers of the Volcano API and the API types
// of Isthmus, each in a folder of its own; it has no code itself.
//
//	api             names, wire formats and types that all programs share
//	job             Volcano Jobs: reconciler, state machine, job plugins
//	queue           status of Queues, and the queues that every cluster has
//	controllertest  a real API server and players for tests
package controllers
