package ssh

import (
	"context"
	"crypto/rand"
	"encoding/hex"
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

	"github.com/pkg/sftp"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// believed is how long an installed program is believed to be there still.
const believed = 10 * time.Minute

// Exit codes of the scripts below.
const (
	exitRefused = 5 // somebody else's directory, or a link
	exitDigest  = 6 // what arrived is not what was sent
)

// prepareScript makes the directory $1 (mode 0700, the user's own, no link) with
// a directory bin in it, and says whether bin/$2 is a program of $3 bytes already.
// Unfinished uploads of long ago are removed.
const prepareScript = `umask 077
(umask 022 && mkdir -p -- "${1%/*}") || exit 1
[ -d "$1" ] || mkdir -m 700 -- "$1" || [ -d "$1" ] || exit 1
for d in "$1" "$1/bin"; do
	[ -d "$d" ] || mkdir -m 700 -- "$d" || [ -d "$d" ] || exit 1
	if [ -L "$d" ] || [ ! -O "$d" ] || [ -n "$(find "$d" -maxdepth 0 -perm /022)" ]; then
		echo "$d is a link, belongs to another user, or is writable for others" >&2
		exit 5
	fi
done
find "$1/bin" -maxdepth 1 -name '.stage-*' -mmin +60 -delete
f=$1/bin/$2
if [ -f "$f" ] && [ ! -L "$f" ] && [ -x "$f" ] && [ "$(stat -c %s -- "$f")" = "$3" ]; then echo have; else echo need; fi
`

// finishScript puts the upload $1 in place as $2 when its digest is $3. With a
// fourth argument it reads the upload from standard input first.
const finishScript = `umask 077
if [ -n "$4" ]; then cat >"$1" || { rm -f -- "$1"; exit 1; }; fi
s=$(sha256sum <"$1") || exit 1
case $s in
"$3 "*) ;;
*) rm -f -- "$1"; echo "the upload has another digest" >&2; exit 6 ;;
esac
chmod 700 -- "$1" && sync -- "$1" && mv -f -- "$1" "$2" && exit 0
rm -f -- "$1"
exit 1
`

// programs remembers what was installed for whom.
type programs struct {
	mu    sync.Mutex
	known map[[2]string]*program // by user and path
}

type program struct {
	mu    sync.Mutex // held while it is looked for and installed
	until time.Time
}

func (p *programs) entry(user, file string) *program {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known == nil {
		p.known = map[[2]string]*program{}
	}
	e := p.known[[2]string{user, file}]
	if e == nil {
		e = &program{}
		p.known[[2]string{user, file}] = e
	}
	return e
}

// forget makes the next call look again, at all files of a user.
func (p *programs) forget(user string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.known {
		if k[0] == user {
			delete(p.known, k)
		}
	}
}

var digestForm = regexp.MustCompile(`\A[0-9a-f]{64}\z`)

// EnsureProgram sees to it that the program of this host's file local lies on
// the login node, in the directory bin of the user's directory root, and gives its
// path there. digest is the program's SHA-256 in hexadecimal; the file is named by
// it. It is uploaded once, as the user, by sftp or else through a command; other
// readers see all of it or nothing. Directories are made with mode 0700; one that
// is not the user's own is refused with transport.ErrDenied. It may be called
// concurrently and repeated.
func (r *Runner) EnsureProgram(ctx context.Context, user, root, local, digest string) (string, error) {
	if !path.IsAbs(root) || path.Clean(root) != root || !digestForm.MatchString(digest) {
		return "", fmt.Errorf("install %s: %w: %q is not a clean absolute path, or %q no digest", path.Base(local), transport.ErrNotStarted, root, digest)
	}
	up := upload{runner: r, sftp: r.put, user: user, root: root, local: local, digest: digest, programs: &r.programs}
	return up.ensure(ctx)
}

// ForgetPrograms makes the next EnsureProgram for the user look again, for when
// a program turned out to be gone.
func (r *Runner) ForgetPrograms(user string) { r.programs.forget(user) }

// upload is one program for one user.
type upload struct {
	runner   transport.Runner
	sftp     func(ctx context.Context, user, file string, in io.Reader) error // nil without
	programs *programs

	user, root, local, digest string
}

func (u upload) ensure(ctx context.Context) (string, error) {
	base := path.Base(u.local) + "-" + u.digest[:12]
	file := path.Join(u.root, "bin", base)
	e := u.programs.entry(u.user, file)
	e.mu.Lock()
	defer e.mu.Unlock()
	if time.Now().Before(e.until) {
		return file, nil
	}
	if err := u.install(ctx, base, file); err != nil {
		return "", fmt.Errorf("install %s for %s: %w", base, u.user, err)
	}
	e.until = time.Now().Add(believed)
	return file, nil
}

func (u upload) install(ctx context.Context, base, file string) error {
	in, err := os.Open(u.local)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	answer, err := u.script(ctx, nil, prepareScript, u.root, base, strconv.FormatInt(info.Size(), 10))
	if err != nil || answer == "have" {
		return err
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails on Linux
	tmp := path.Join(u.root, "bin", ".stage-"+hex.EncodeToString(random[:]))
	if u.sftp != nil {
		err := u.sftp(ctx, u.user, tmp, in)
		if err == nil {
			_, err = u.script(ctx, nil, finishScript, tmp, file, u.digest, "")
		}
		if err == nil || ctx.Err() != nil {
			return err
		}
		// No sftp there, or one that sees other directories: the long way.
		if _, err := in.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	_, err = u.script(ctx, in, finishScript, tmp, file, u.digest, "stdin")
	return err
}

// script runs one of the constant scripts as the user.
func (u upload) script(ctx context.Context, stdin io.Reader, text string, args ...string) (string, error) {
	res, err := u.runner.Run(ctx, transport.Command{
		User: u.user, Argv: append([]string{"/bin/sh", "-c", text, "sh"}, args...), Stdin: stdin, MaxOutput: 4096,
	})
	switch {
	case err != nil:
		return "", err
	case res.Exit == exitRefused:
		return "", fmt.Errorf("%w: %s", transport.ErrDenied, printable(string(res.Stderr)))
	case res.Exit != 0:
		return "", fmt.Errorf("exit code %d: %s", res.Exit, printable(string(res.Stderr)))
	}
	return strings.TrimSpace(string(res.Stdout)), nil
}

// put writes a new file by sftp.
func (r *Runner) put(ctx context.Context, user, file string, in io.Reader) error {
	login, become, err := r.identity(user)
	if err != nil {
		return err
	}
	if become != "" {
		return errors.New("sftp knows no sudo")
	}
	a, err := r.begin(login)
	if err != nil {
		return err
	}
	defer r.active.Done()
	s, done, err := a.subsystem(ctx, "sftp")
	if err != nil {
		return err
	}
	defer done()
	defer s.close()
	// The library knows no context.
	stop := context.AfterFunc(ctx, s.close)
	defer stop()
	go func() { _, _ = io.Copy(io.Discard, s.stderr()) }()
	client, err := sftp.NewClientPipe(s, s.Channel, sftp.UseConcurrentWrites(true))
	if err != nil {
		return fmt.Errorf("sftp: %w", err)
	}
	defer func() { _ = client.Close() }()
	out, err := client.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return fmt.Errorf("sftp: %w", err)
	}
	err = out.Chmod(0o600)
	if err == nil {
		_, err = out.ReadFrom(in)
	}
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("sftp: %w", err)
	}
	return nil
}
