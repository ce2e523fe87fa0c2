package slurm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
)

// AccountName is the account of all users in a cluster with accounting.
const AccountName = "testbed"

// databaseTime is how long the accounting database may take to be made and to
// come up, beyond readyTime; it takes 3 s when idle.
const databaseTime = 60 * time.Second

// databaseOptions are what mariadbd gets when it makes its tables and when it
// runs: none of the machine's own settings, little memory, and no care for
// crashes of the machine, which nothing here outlives.
func databaseOptions(l layout) []string {
	return []string{
		"--no-defaults", "--user=root", "--datadir=" + l.database("data"),
		"--innodb-buffer-pool-size=16M", "--innodb-log-file-size=8M",
		"--innodb-flush-method=nosync", "--innodb-flush-log-at-trx-commit=0", "--innodb-doublewrite=OFF",
		"--skip-name-resolve",
	}
}

// slurmdbdConf writes the configuration of the accounting daemon, which looks
// for it beside slurm.conf.
func (c Config) slurmdbdConf(l layout, at place) string {
	var tokens []string
	if c.REST {
		tokens = restConf(l)
	}
	return strings.Join(append(tokens,
		"AuthType=auth/munge", "AuthInfo=socket="+l.munge("socket"),
		// The name must be that of this machine, or localhost.
		"DbdHost=localhost", "DbdAddr="+at.controller(), fmt.Sprintf("DbdPort=%d", at.accounting()),
		"SlurmUser=root",
		"PidFile="+filepath.Join(l.dir, "slurmdbd.pid"),
		// The database knows root by its process, so there is no password. The
		// client library takes the path of the socket from MYSQL_UNIX_PORT; there
		// is no option for it here.
		"StorageType=accounting_storage/mysql", "StorageHost=localhost", "StorageUser=root", "StorageLoc=slurm",
	), "\n") + "\n"
}

// writeAccounting writes the files that accounting takes.
func (c *Cluster) writeAccounting(config Config) error {
	l := c.layout
	if err := os.MkdirAll(l.database(""), 0o700); err != nil {
		return err
	}
	// slurmdbd refuses a configuration that others can read.
	return os.WriteFile(l.slurmdbd(), []byte(config.slurmdbdConf(l, c.record.Place)), 0o600)
}

// startAccounting starts the database and the accounting daemon and makes the
// cluster, the account and the users known, before the controller asks. What is
// there already stays.
func (c *Cluster) startAccounting(ctx context.Context) error {
	if err := c.startDatabase(ctx); err != nil {
		return err
	}
	p, err := c.daemonWith([]string{"MYSQL_UNIX_PORT=" + c.layout.database("socket")}, "slurmdbd", "slurmdbd", "-D")
	if err != nil {
		return err
	}
	err = p.WaitReady(ctx, func(ctx context.Context) error {
		ctx, stop := context.WithTimeout(ctx, 2*time.Second)
		defer stop()
		_, err := c.Run(ctx, "sacctmgr", "--noheader", "show", "cluster")
		return err
	})
	if err != nil {
		return err
	}
	for _, what := range [][]string{
		{"cluster", c.record.Name},
		{"account", AccountName, "cluster=" + c.record.Name},
		{"user", account.Alice + "," + account.Bob, "account=" + AccountName, "cluster=" + c.record.Name},
	} {
		out, err := c.Run(ctx, append([]string{"sacctmgr", "--immediate", "add"}, what...)...)
		// A directory that was used before has them; sacctmgr takes that for a failure.
		if err != nil && !strings.Contains(out, "already exist") && !strings.Contains(out, "Nothing new added") {
			return fmt.Errorf("%w: %s", err, strings.TrimSpace(out))
		}
	}
	return nil
}

// startDatabase makes the database unless it is there, and starts it. It
// listens on a socket in a directory that is root's alone.
func (c *Cluster) startDatabase(ctx context.Context) error {
	l := c.layout
	if _, err := os.Stat(l.database("made")); errors.Is(err, os.ErrNotExist) {
		if err := makeDatabase(ctx, l); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	p, err := c.daemon("mariadbd", "mariadbd", append(databaseOptions(l),
		"--socket="+l.database("socket"), "--pid-file="+l.database("pid"), "--skip-networking",
		"--performance-schema=OFF", "--max-connections=64", "--key-buffer-size=1M", "--aria-pagecache-buffer-size=8M",
		"--innodb-lock-wait-timeout=900", // slurmdbd asks for that much
	)...)
	if err != nil {
		return err
	}
	return p.WaitReady(ctx, func(ctx context.Context) error {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", l.database("socket"))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// makeDatabase fills the data directory. A half-made one, of a program that was
// killed meanwhile, is made anew.
func makeDatabase(ctx context.Context, l layout) error {
	if err := os.RemoveAll(l.database("data")); err != nil {
		return err
	}
	path, err := debian.Find("mariadb-install-db")
	if err != nil {
		return fmt.Errorf("make the database: %w", err)
	}
	cmd := exec.CommandContext(ctx, path, append(databaseOptions(l),
		"--auth-root-authentication-method=socket", "--auth-root-socket-user=root", "--skip-test-db")...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/"}
	cmd.Dir = l.database("")
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make the database: %w: %s", err, lastLines(out, 15))
	}
	return os.WriteFile(l.database("made"), nil, 0o600)
}
