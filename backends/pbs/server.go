package pbs

import (
	"context"
	"fmt"
	"regexp"
	"strings"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// server is what the server's settings say.
type server struct {
	history      bool   // ended jobs stay listed
	othersHidden bool   // a user sees his own jobs only
	defaultQueue string // "" when there is none
	walltime     string // default run-time limit, "" when there is none
}

var versionForm = regexp.MustCompile(`[0-9]+(\.[0-9A-Za-z]+)*`)

// identify reads the answer to "qstat --version": "pbs_version = 23.06.06" of
// PBS, "Version: 6.1.3" and more lines of Torque.
func identify(text string) (dialect Dialect, version string, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		lower := strings.ToLower(line)
		switch {
		case strings.HasPrefix(lower, "pbs_version"):
			dialect = Pro
		case strings.HasPrefix(lower, "version:"):
			dialect = Torque
		default:
			continue
		}
		if version = versionForm.FindString(line); version != "" {
			return dialect, version, nil
		}
	}
	return "", "", fmt.Errorf("qstat gives the version %.80q, which is neither PBS's nor Torque's", transport.OneLine(text))
}

// identified reads once which batch system the commands belong to, and fails
// when it is not the expected one. The commands know without a server.
func (b *Backend) identified(ctx context.Context, op string) (string, error) {
	b.mu.Lock()
	version := b.version
	b.mu.Unlock()
	if version != "" {
		return version, nil
	}
	res, err := b.ask(ctx, op, command{argv: []string{"qstat", "--version"}})
	if err != nil {
		return "", err
	}
	// Torque says it on the standard error stream.
	dialect, version, err := identify(string(res.Stdout) + "\n" + string(res.Stderr))
	if err == nil && dialect != b.config.Dialect {
		err = fmt.Errorf("spec.type is %s, but the commands are those of the other family (qstat --version says %s %s): set spec.type to %s",
			b.config.Dialect, dialect, version, dialect)
	}
	if err != nil {
		return "", &backends.Error{Op: op, Kind: backends.KindTransient, Err: err}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.version = version
	return version, nil
}

// settled gives the server's settings, read now if they never were.
func (b *Backend) settled(ctx context.Context, op string) (server, error) {
	b.mu.Lock()
	known := b.settings
	b.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	return b.readServer(ctx, op)
}

// readServer asks for the server's settings.
func (b *Backend) readServer(ctx context.Context, op string) (server, error) {
	if _, err := b.identified(ctx, op); err != nil {
		return server{}, err
	}
	out, err := b.query(ctx, op, "qstat", "-B", "-f")
	if err != nil {
		return server{}, err
	}
	all, err := read(out, "Server: ")
	if err == nil && len(all) == 0 {
		err = fmt.Errorf("no server is named in %.80q", transport.OneLine(out))
	}
	if err != nil {
		return server{}, &backends.Error{Op: op, Kind: backends.KindTransient, Err: fmt.Errorf("read the server's settings: %w", err)}
	}
	s := parseServer(b.config.Dialect, all[0])
	b.keep(s)
	return s, nil
}

func (b *Backend) keep(s server) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settings = &s
}

func parseServer(dialect Dialect, r *block) server {
	isTrue := func(name string) bool { return strings.EqualFold(r.get(name), "true") }
	return server{
		// Torque's completed jobs are gone after keep_completed seconds.
		history: dialect == Pro && isTrue("job_history_enable"),
		// PBS hides unless it is told to show; the attribute is always there.
		othersHidden: !isTrue("query_other_jobs"),
		defaultQueue: r.get("default_queue"),
		walltime:     r.get("resources_default.walltime"),
	}
}
