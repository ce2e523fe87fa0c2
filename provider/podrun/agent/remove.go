package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// litterAge is when an unfinished or removed directory is nobody's any more: no
// caller waits for a verb that long.
const litterAge = 15 * time.Minute

// Remove removes a gang directory, and what interrupted verbs have left. A
// missing one is success.
func Remove(dir, key string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	root, err := openBase(dir, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	err = removeGang(root, key)
	sweep(root, map[string]bool{key: true}, time.Now())
	return err
}

// RemoveMany is Remove for every key of in, each a manifest.StageHeader as one
// line of JSON. It writes one manifest.Answer a key to out, in order; the
// failure of one is its own. The error is about all keys that have no answer.
func RemoveMany(dir string, in io.Reader, out io.Writer) error {
	root, err := openBase(dir, false)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	keys := map[string]bool{}
	if !missing {
		defer root.Close()
		defer func() { sweep(root, keys, time.Now()) }()
	}
	dec, enc := json.NewDecoder(io.LimitReader(in, maxGangs<<8)), json.NewEncoder(out)
	for range maxGangs {
		var header manifest.StageHeader
		err := dec.Decode(&header)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read keys: %w: %w", err, ErrInvalid)
		}
		if err = checkKey(header.Key); err == nil && !missing {
			keys[header.Key] = true
			err = removeGang(root, header.Key)
		}
		answer := manifest.Answer{Key: header.Key, Code: Code(err)}
		if err != nil {
			answer.Error = err.Error()
		}
		if err := enc.Encode(answer); err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	return fmt.Errorf("more than %d keys: %w", maxGangs-1, ErrInvalid)
}

func removeGang(root *os.Root, key string) error {
	gone := path.Join(gangsDir, trash+key+"-"+randomName())
	switch err := root.Rename(gangPath(key), gone); {
	case err == nil:
		if err := removeTree(root, gone); err != nil {
			return fmt.Errorf("remove gang: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("remove gang: %w", err)
	}
	return nil
}

// sweep removes litter, the directories that a killed verb has left: those of
// the gangs keys, which are on their way out whatever else is under way, and those
// of any gang that are old.
func sweep(root *os.Root, keys map[string]bool, now time.Time) {
	names, err := atomicfile.Names(root, gangsDir)
	if err != nil {
		return
	}
	for _, name := range names {
		if !strings.HasPrefix(name, staging) && !strings.HasPrefix(name, trash) {
			continue
		}
		full := path.Join(gangsDir, name)
		of, _, _ := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(name, staging), trash), "-")
		if st, err := root.Lstat(full); err == nil && (keys[of] || now.Sub(st.ModTime()) > litterAge) {
			_ = removeTree(root, full) // the next sweep tries again
		}
	}
}
