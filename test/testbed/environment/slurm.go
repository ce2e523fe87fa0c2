package environment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
)

func slurmImpossible(context.Context, io.Writer) string { return "not wired yet" }

func (e *Environment) startSlurm(context.Context, Config) error { return errors.New("not wired yet") }
func (e *Environment) attachSlurm() error                       { return errors.New("not wired yet") }

// jobUser is the account that jobs run as: a test account where we may become
// another user, and ourselves elsewhere.
func jobUser() (string, error) {
	if os.Geteuid() == 0 {
		return "isthmus-alice", nil
	}
	u, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("find the current user: %w", err)
	}
	return u.Username, nil
}
