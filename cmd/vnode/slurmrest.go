package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurm"
	"github.com/isthmus-hpc/isthmus/backends/slurmrest"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/provider"
)

// restFields is where mistakes in the connection are told.
const restFields = "spec.connection.rest"

// slurmrestSystem drives Slurm through slurmrestd. Files go by the runner, and
// so do exec and its like where the runner's host is a login node.
func slurmrestSystem(c *hpcv1alpha1.BatchCluster, runner transport.Runner, s secrets) (provider.System, error) {
	rest := c.Spec.Connection.REST
	if rest == nil {
		return provider.System{}, fmt.Errorf("%s is required for connection type rest", restFields)
	}
	tokens, err := restTokens(*rest, s)
	if err != nil {
		return provider.System{}, fmt.Errorf("%s.%w", restFields, err)
	}
	var users []string
	for _, a := range c.Spec.Accounts {
		if !slices.Contains(users, a.User) {
			users = append(users, a.User)
		}
	}
	b, err := slurmrest.New(slurmrest.Config{
		URL: rest.URL, CAFile: rest.CAFile, Tokens: tokens, Users: users, Env: environment(c),
	})
	if err != nil {
		return provider.System{}, fmt.Errorf("%s.%w", restFields, err)
	}
	if c.Spec.Connection.SSH == nil {
		return provider.System{Backend: b, Launcher: "slurm"}, nil
	}
	commands, err := slurm.New(slurm.Config{Runner: runner, Env: environment(c)})
	if err != nil {
		return provider.System{}, err
	}
	return provider.System{Backend: entering{b, commands}, Launcher: "slurm"}, nil
}

// entering is slurmrestd with the one thing it cannot do: srun enters jobs.
type entering struct {
	*slurmrest.Backend
	srun backends.Enterer
}

// Capabilities are those of slurmrestd, and Enter.
func (e entering) Capabilities() backends.Capabilities {
	c := e.Backend.Capabilities()
	c.Enter = true
	return c
}

// Enter gives the srun of package slurm.
func (e entering) Enter(job backends.JobRef, host string, argv []string) (backends.Entry, error) {
	return e.srun.Enter(job, host, argv)
}

// restTokens gives the tokens from the one source that is named.
func restTokens(rest hpcv1alpha1.RESTConnection, s secrets) (slurmrest.Tokens, error) {
	var lifetime time.Duration
	if rest.TokenLifetime != nil {
		lifetime = rest.TokenLifetime.Duration
	}
	switch {
	case rest.TokenFile != "":
		return slurmrest.Given(slurmrest.FileReader(rest.TokenFile)), nil
	case rest.TokenSecretRef != nil:
		return slurmrest.Given(func(ctx context.Context, user string) ([]byte, error) {
			return s.read(ctx, *rest.TokenSecretRef, user)
		}), nil
	case rest.JWTKeyFile != "":
		return slurmrest.Minted(slurmrest.FileReader(rest.JWTKeyFile), lifetime)
	case rest.JWTKeySecretRef != nil:
		return slurmrest.Minted(func(ctx context.Context, _ string) ([]byte, error) {
			return s.read(ctx, *rest.JWTKeySecretRef, "jwt_hs256.key")
		}, lifetime)
	}
	return nil, nil // New says what is missing
}
