package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// maxGangs bounds one call of Stage.
const maxGangs = 1024

// arrival is a gang on its way to its place.
type arrival struct {
	key   string
	tmp   string // beneath the root; "" when there is nothing to put in place
	files int
	err   error
}

// Stage reads gangs from in, each a manifest.StageHeader as one line of JSON and
// the tar of that many bytes, and unpacks each as a gang directory beneath dir,
// with a link to exe, this very program. It writes one manifest.Answer a
// gang to out, in order, as lines of JSON. Each gang is all or nothing and its
// failure is its own; a gang directory that is there already is success and
// stays as it is. The error is about all gangs that have no answer. digest is
// the caller's SHA-256 of exe in hexadecimal, or ""; it saves reading a program
// that is installed.
func Stage(dir string, in io.Reader, exe, digest string, out io.Writer) error {
	root, err := openBase(dir, true)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, d := range []string{gangsDir, binDir} {
		if err := root.Mkdir(d, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make %s: %w", d, err)
		}
	}
	bin, err := install(root, exe, digest)
	if err != nil {
		return err
	}
	gangs, broken := unpackAll(root, in, bin)
	place(root, gangs)
	enc := json.NewEncoder(out)
	for _, g := range gangs {
		answer := manifest.Answer{Key: g.key, Code: Code(g.err)}
		if g.err != nil {
			answer.Error = g.err.Error()
		}
		if err := enc.Encode(answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return broken
}
