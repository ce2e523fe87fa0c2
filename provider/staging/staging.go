// Package staging hands gangs over to the cluster's file system and reads back
// what the pod runner wrote there. It never opens a file there itself: all work is
// done by `podrun agent`, run as the job's user through a transport, so that no
// privilege of the daemon meets a directory that a user controls.
package staging

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/groupcommit"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// maxCollected bounds what one collection may print, in bytes.
const maxCollected = 64 << 20

// imageRetention is spec.images.retention where it is not given.
const imageRetention = 720 * time.Hour

var (
	userPattern = regexp.MustCompile(`\A([A-Za-z_]|[0-9]+[A-Za-z_.@-])[A-Za-z0-9_.@-]{0,255}\z`)
	keyPattern  = regexp.MustCompile(`\A[a-z][a-z0-9]{0,14}\z`)
	namePattern = regexp.MustCompile(`\A[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?\z`)
)

// Client runs the verbs of `podrun agent`. Every method blocks until the verb
// ended or ctx did, acts as the named user, and is safe to repeat and to call
// concurrently. Every error is an *Error.
type Client struct {
	// Runner reaches the host that sees the staging directory.
	Runner transport.Runner
	// Podrun is the absolute path of the pod runner on that host.
	Podrun string
	// Program finds the pod runner where it is not installed; it comes before Podrun.
	Program Program
	// Digest is the SHA-256 of that program in hexadecimal, or "" (see DigestOf);
	// it saves the agent from reading the program for every gang.
	Digest string
	// Directory is spec.staging.directory of the BatchCluster.
	Directory string
	// Images, when set, are the users' images and how long they are kept.
	Images *hpcv1alpha1.Images
	// Env is the environment of the verbs, NAME=value.
	Env []string

	once     sync.Once
	stages   *groupcommit.Committer[parcel]
	stops    *groupcommit.Committer[manifest.StopOrder]
	removals *groupcommit.Committer[backends.Key]
	pulls    *groupcommit.Committer[pull]
}

// Program puts the pod runner where the verbs run.
type Program interface {
	// Path gives the absolute path that the user finds it at, after having put it
	// there if need be.
	Path(ctx context.Context, user string) (string, error)
	// Forget says that it was not there any more.
	Forget(user string)
}

// Root gives a user's staging directory: every path element "{user}" of
// directory is replaced, and without one the user's folder lies below it.
func Root(directory, user string) (string, error) {
	if !userPattern.MatchString(user) || user == "root" {
		return "", fmt.Errorf("staging directory: %q is not a user that jobs may run as", user)
	}
	if !path.IsAbs(directory) || strings.ContainsRune(directory, 0) {
		return "", fmt.Errorf("staging directory: %q is not an absolute path", directory)
	}
	replaced := false
	elements := strings.Split(directory, "/")
	for i, e := range elements {
		switch e {
		case "{user}":
			elements[i], replaced = user, true
		case "..":
			return "", fmt.Errorf("staging directory: %q has an element \"..\"", directory)
		}
	}
	dir := path.Clean(strings.Join(elements, "/"))
	if !replaced {
		dir = path.Join(dir, user)
	}
	return dir, nil
}

// DigestOf reads a program once for Client.Digest.
func DigestOf(program string) (string, error) {
	f, err := os.Open(program)
	if err != nil {
		return "", fmt.Errorf("read the pod runner: %w", err)
	}
	defer func() { _ = f.Close() }() // it was only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read the pod runner: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// WorkDir is the directory of one gang. It does no I/O and is "" for a user or
// key that no gang can have.
func (c *Client) WorkDir(user string, key backends.Key) string {
	root, err := Root(c.Directory, user)
	if err != nil || !keyPattern.MatchString(string(key)) {
		return ""
	}
	return path.Join(root, "g", string(key))
}

// Collect reads the status of all gangs of a user, and now and then removes images
// of the user that are not used any more. No directory is no gangs.
func (c *Client) Collect(ctx context.Context, user string) (manifest.Collected, error) {
	res, err := c.verb(ctx, "collect", user, "", call{limit: maxCollected, keyless: true, args: c.imageArgs(user)})
	if err != nil {
		return manifest.Collected{}, err
	}
	var out manifest.Collected
	if text := bytes.TrimSpace(res.Stdout); len(text) > 0 {
		if err := json.Unmarshal(text, &out); err != nil {
			return manifest.Collected{}, c.fail("collect", user, "", backends.KindTransient, fmt.Errorf("decode the answer: %w", err))
		}
	}
	// The user owns these files: what cannot be ours is left out.
	for key := range out.Gangs {
		if !keyPattern.MatchString(key) {
			delete(out.Gangs, key)
		}
	}
	return out, nil
}

// imageArgs tell the agent which images of the user to remove.
func (c *Client) imageArgs(user string) []string {
	if c.Images == nil {
		return nil
	}
	var args []string
	unused := imageRetention
	if r := c.Images.Retention; r != nil {
		unused = r.Duration
	}
	if unused > 0 {
		args = append(args, "--images-unused", unused.String())
	}
	if q := c.Images.MaxSize; q != nil {
		args = append(args, "--images-bytes", strconv.FormatInt(q.Value(), 10))
	}
	if dir := translate.ImageStore(c.Images, user); dir != "" && len(args) > 0 {
		args = append(args, "--images", dir)
	}
	return args
}

// LogOptions select what Logs writes; the zero value is everything.
type LogOptions struct {
	Tail       *int64    // last lines; 0 is none
	SinceTime  time.Time // zero is from the start
	LimitBytes *int64
	Timestamps bool
	Previous   bool
	Follow     bool
}

// Logs writes a container's log to w in a kubelet's format. With Follow it
// returns once the container has ended and all was written, or ctx ended.
func (c *Client) Logs(ctx context.Context, user string, key backends.Key, rank int, container string, o LogOptions, w io.Writer) error {
	if rank < 0 || !namePattern.MatchString(container) {
		return c.fail("logs", user, key, backends.KindInvalid, fmt.Errorf("rank %d, container %q", rank, container))
	}
	args := []string{"--rank", strconv.Itoa(rank), "--container", container}
	if o.Previous {
		args = append(args, "--previous")
	}
	if o.Follow {
		args = append(args, "--follow")
	}
	if o.Timestamps {
		args = append(args, "--timestamps")
	}
	if o.Tail != nil {
		args = append(args, "--tail", strconv.FormatInt(max(*o.Tail, 0), 10))
	}
	if o.LimitBytes != nil {
		args = append(args, "--limit-bytes", strconv.FormatInt(max(*o.LimitBytes, 0), 10))
	}
	if !o.SinceTime.IsZero() {
		args = append(args, "--since-time", o.SinceTime.UTC().Format(time.RFC3339Nano))
	}
	_, err := c.verb(ctx, "logs", user, key, call{args: args, stdout: w})
	return err
}

// call is what differs between the verbs.
type call struct {
	args    []string
	stdin   io.Reader
	stdout  io.Writer
	limit   int64
	keyless bool // about no gang, or about several that stdin names
}

// verb runs one verb and sorts its outcome. All verbs are idempotent, so an
// unknown outcome is worth another try like any transient failure.
func (c *Client) verb(ctx context.Context, name, user string, key backends.Key, in call) (transport.Result, error) {
	root, err := Root(c.Directory, user)
	if err != nil {
		return transport.Result{}, c.fail(name, user, key, backends.KindInvalid, err)
	}
	podrun := c.Podrun
	if c.Program != nil {
		if podrun, err = c.Program.Path(ctx, user); err != nil {
			return transport.Result{}, c.fail(name, user, key, notDone(err), err)
		}
	}
	argv := []string{podrun, "agent", name, "--root", root}
	if !in.keyless {
		if !keyPattern.MatchString(string(key)) {
			return transport.Result{}, c.fail(name, user, key, backends.KindInvalid, errors.New("the key is malformed"))
		}
		argv = append(argv, "--key", string(key))
	}
	limit := in.limit
	if limit == 0 {
		limit = 1 << 20
	}
	res, err := c.Runner.Run(ctx, transport.Command{
		User: user, Argv: append(argv, in.args...), Env: c.Env, Dir: "/",
		Stdin: in.stdin, Stdout: in.stdout, MaxOutput: limit,
	})
	switch {
	case err != nil && errors.Is(err, transport.ErrOutputLimit):
		return res, c.fail(name, user, key, backends.KindInvalid, fmt.Errorf("more than %d bytes: %w", limit, err))
	case err != nil:
		if c.Program != nil && errors.Is(err, transport.ErrNotStarted) {
			c.Program.Forget(user) // someone may have removed it
		}
		return res, c.fail(name, user, key, notDone(err), err)
	case res.Exit == 0:
		return res, nil
	}
	return res, c.failed(name, user, key, res.Exit, lastLine(res.Stderr))
}

// notDone is the kind of a transport's error: refused credentials take a person,
// all else is worth another try.
func notDone(err error) backends.Kind {
	if errors.Is(err, transport.ErrDenied) {
		return backends.KindDenied
	}
	return backends.KindTransient
}

// failed makes an error of a verb's exit code.
func (c *Client) failed(verb, user string, key backends.Key, code int, said string) error {
	cause := fmt.Errorf("exit code %d: %s", code, said)
	switch code {
	case 3:
		return c.fail(verb, user, key, backends.KindInvalid, cause)
	case 4:
		return c.fail(verb, user, key, backends.KindInvalid, fmt.Errorf("%w: %w", ErrNotFound, cause))
	case 5:
		return c.fail(verb, user, key, backends.KindDenied, cause)
	default:
		return c.fail(verb, user, key, backends.KindTransient, cause)
	}
}

func (c *Client) fail(verb, user string, key backends.Key, kind backends.Kind, err error) error {
	return &Error{Verb: verb, User: user, Key: key, Kind: kind, Err: err}
}

func lastLine(b []byte) string {
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return printable(lines[len(lines)-1], 512)
}

// printable makes text fit for argv and logs: one line, valid, bounded.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	if len(s) > most {
		for most > 0 && !utf8.RuneStart(s[most]) {
			most--
		}
		s = s[:most]
	}
	return strings.TrimSpace(s)
}
