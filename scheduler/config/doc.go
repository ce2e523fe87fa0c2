// Package config reads the scheduler's configuration in Volcano's format and
// makes a pipeline of it.
//
// Parsing is strict: a name that nobody knows or a value of the wrong type is an
// error that tells its path, and the caller keeps what it had. A name that
// Volcano knows and this scheduler has no use for is a warning. The registry
// (registry.go) lists every action, plugin and argument, a line each.
//
// The package is pure: it takes text and gives data. It reads no file and no clock.
package config
