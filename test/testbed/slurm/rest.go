package slurm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// restDaemon is the name of the process that serves Slurm's REST API.
const restDaemon = "slurmrestd"

// restConf gives the lines of slurm.conf (and of slurmdbd.conf, which takes the
// same) that make the daemons accept tokens.
func restConf(l layout) []string {
	return []string{"AuthAltTypes=auth/jwt", "AuthAltParameters=jwt_key=" + l.tokenKey()}
}

// writeREST makes the key that tokens are signed with and the directory of the
// socket, which is slurmrestd's own.
func (c *Cluster) writeREST() error {
	l := c.layout
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return err
	}
	// A directory that was used before keeps its key, as a site does.
	f, err := os.OpenFile(l.tokenKey(), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err == nil {
		_, err = f.Write(key)
		err = errors.Join(err, f.Close())
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	u, err := user.Lookup(account.Rest)
	if err != nil {
		return fmt.Errorf("find the user of slurmrestd: %w", err)
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	dir := filepath.Dir(l.restSocket())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.Chmod(dir, 0o755); err != nil { // whatever the umask
		return err
	}
	return os.Chown(dir, uid, gid)
}

// StartREST starts slurmrestd as a user of its own and returns once it listens.
// It takes tokens only. Without an accounting database it serves no plugin that
// needs one, since it would not start. Only with Config.REST.
func (c *Cluster) StartREST(ctx context.Context) error {
	if !c.record.REST {
		return errors.New("start slurmrestd: the cluster was not configured for it")
	}
	l := c.layout
	// One that was killed leaves its socket, which the next refuses to take.
	if err := os.Remove(l.restSocket()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("start slurmrestd: %w", err)
	}
	plugins := "openapi/v0.0.38"
	if c.record.Accounting {
		plugins += ",openapi/dbv0.0.38"
	}
	// Without the variable it would speak to the controller by munge, as itself,
	// and refuse every token.
	p, err := c.daemonWith([]string{"SLURM_JWT=daemon"}, restDaemon, "slurmrestd",
		"-f", l.conf(), "-a", "rest_auth/jwt", "-s", plugins, "-u", account.Rest, "-g", account.Rest,
		"unix:"+l.restSocket(), c.restAddress())
	if err != nil {
		return err
	}
	return p.WaitReady(ctx, func(ctx context.Context) error {
		for _, at := range [][2]string{{"unix", l.restSocket()}, {"tcp", c.restAddress()}} {
			conn, err := (&net.Dialer{}).DialContext(ctx, at[0], at[1])
			if err != nil {
				return err
			}
			_ = conn.Close()
		}
		return nil
	})
}

// KillREST ends slurmrestd as a crash would.
func (c *Cluster) KillREST() error {
	p := c.processes.Find(restDaemon)
	if p == nil {
		return errors.New("kill slurmrestd: it was not started")
	}
	return p.Kill()
}

func (c *Cluster) restAddress() string {
	return net.JoinHostPort(c.record.Place.controller(), strconv.Itoa(c.record.Place.rest()))
}

// RESTSocket is the URL of slurmrestd on its Unix socket, RESTAddress that on
// its loopback port; TokenKeyFile holds the HS256 key of tokens.
func (c *Cluster) RESTSocket() string { return "unix://" + c.layout.restSocket() }

// RESTAddress is the URL of slurmrestd on its loopback port.
func (c *Cluster) RESTAddress() string { return "http://" + c.restAddress() }

// TokenKeyFile holds the HS256 key that tokens are signed with.
func (c *Cluster) TokenKeyFile() string { return c.layout.tokenKey() }
