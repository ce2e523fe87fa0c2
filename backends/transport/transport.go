// Package transport runs programs where the batch system's commands are: on
// this host or across SSH. It knows nothing of batch systems.
//
// Commands are argument vectors, never shell text.
package transport

import (
	"context"
	"errors"
	"io"
)

// Command is one program to run.
type Command struct {
	// User is the operating-system user to run as; "" is the transport's own.
	User string
	// Argv is the program and its arguments; Argv[0] is looked up in PATH when
	// it has no slash.
	Argv []string
	// Env is the whole environment as NAME=value; PATH, HOME, USER, LOGNAME and
	// LC_ALL=C are added by the transport when they are missing. Nothing is
	// inherited from the daemon.
	Env []string
	// Dir is the working directory; "" is "/".
	Dir string
	// Stdin may be nil. One that is all there and says how long it is, as a
	// strings.Reader does (Whole), reaches the program whole or the program never
	// sees its end, also when this process is killed meanwhile; on a host that has
	// only pipes for it, which local.Runner tells, a program may read half of it then.
	// After ErrNotStarted one that is Whole and an io.Seeker stands where it stood, so
	// that the command can be run again. Of any other some may have been read:
	// whoever runs the command again gives a new one.
	Stdin io.Reader
	// Stdout receives the output as it comes; when nil, it is collected in
	// Result.Stdout up to MaxOutput.
	Stdout io.Writer
	// MaxOutput bounds what is collected of each stream, in bytes; 0 is 64 MiB.
	MaxOutput int64
}

// Result is how a program ended.
type Result struct {
	Stdout []byte
	Stderr []byte // at most 64 KiB, the end of it
	Exit   int    // exit code; 128+n for signal n
}

// ErrNotStarted wraps every error after which the program certainly did not
// run. Any other error leaves its outcome unknown.
var ErrNotStarted = errors.New("not started")

// ErrOutputLimit says that a stream exceeded MaxOutput; the program was killed.
var ErrOutputLimit = errors.New("output limit exceeded")

// Runner runs commands. Run blocks until the program ended; when ctx ends first
// the program is killed and the error wraps ctx.Err(): the outcome is unknown.
// A program that ran and exited non-zero is a Result, not an error.
type Runner interface {
	Run(ctx context.Context, c Command) (Result, error)
}

// ErrDenied says that the login, or the change to another user, was refused: a
// person has to do something before it can work. The program did not run.
var ErrDenied = errors.New("access denied")

// ErrCredentialsExpired says that the credentials were good once and are no
// more. Errors that wrap it wrap ErrDenied, too.
var ErrCredentialsExpired = errors.New("credentials expired")
