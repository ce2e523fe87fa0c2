package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

const (
	maxStatus    = 1 << 20  // of one status.json or end.json in bytes
	maxGang      = 64 << 20 // of one gang.json in bytes
	batchLogTail = 2 << 10
	// readers is how many files are read at once: a network filesystem answers
	// each in its own time.
	readers = 16
)

// Collect writes manifest.Collected of all gangs beneath dir as JSON. A missing
// directory is an empty answer; what is only half there is left out, and removed
// once it is old.
func Collect(dir string, out io.Writer) error {
	all := manifest.Collected{Gangs: map[string]manifest.CollectedGang{}, Identity: identity()}
	root, err := openBase(dir, false)
	switch {
	case err == nil:
		defer root.Close()
		if err := collect(root, &all); err != nil {
			return err
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := json.NewEncoder(out).Encode(all); err != nil {
		return fmt.Errorf("write answer: %w", err)
	}
	return nil
}

// identity is who this process is, for pods that name ids.
func identity() manifest.Identity {
	id := manifest.Identity{UID: int64(os.Getuid()), GID: int64(os.Getgid())}
	groups, err := os.Getgroups()
	if err != nil {
		return id // without them no pod may name one
	}
	for _, g := range groups {
		id.Groups = append(id.Groups, int64(g))
	}
	return id
}

func collect(root *os.Root, all *manifest.Collected) error {
	keys, err := atomicfile.Names(root, gangsDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	jobs := make(chan func())
	var mu sync.Mutex
	var workers sync.WaitGroup
	for range readers {
		workers.Go(func() {
			for f := range jobs {
				f()
			}
		})
	}
	for _, key := range keys {
		if !keyPattern.MatchString(key) {
			continue
		}
		ranks, err := atomicfile.Names(root, path.Join(gangsDir, key, "pods"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			continue // not a gang's directory, or on its way out
		}
		g := manifest.CollectedGang{Pods: map[int]manifest.Status{}}
		var pending sync.WaitGroup
		for _, name := range ranks {
			rank, err := strconv.Atoi(name)
			if err != nil || rank < 0 || strconv.Itoa(rank) != name {
				continue
			}
			pending.Add(1)
			jobs <- func() {
				defer pending.Done()
				var s manifest.Status
				file := path.Join(gangsDir, key, "pods", name, "status.json")
				if atomicfile.ReadJSON(root, file, maxStatus, &s) != nil || s.Rank != rank {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				g.Pods[rank] = s
			}
		}
		pending.Wait()
		var gang manifest.Gang
		if atomicfile.ReadJSON(root, path.Join(gangsDir, key, "gang.json"), maxGang, &gang) == nil {
			g.Components, g.Licenses = gang.Components, gang.Licenses
			g.Ranks = make(map[string]int, len(gang.Members))
			for _, m := range gang.Members {
				g.Ranks[m.UID] = m.Rank
			}
		}
		var end manifest.End
		if atomicfile.ReadJSON(root, path.Join(gangsDir, key, "end.json"), maxStatus, &end) == nil {
			g.End = &end
		}
		if g.End != nil || len(g.Pods) == 0 {
			g.BatchLogTail = tail(root, path.Join(gangsDir, key, "batch.log"))
		}
		if _, err := root.Lstat(gangPath(key)); err == nil {
			all.Gangs[key] = g
		}
	}
	close(jobs)
	workers.Wait()
	sweep(root, nil, time.Now()) // no gang is named by what a killed verb has left, so no Remove comes for it
	return nil
}

// tail is the end of a text file, "" when there is none.
func tail(root *os.Root, name string) string {
	f, err := atomicfile.Open(root, name)
	if err != nil {
		return ""
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	buf := make([]byte, min(st.Size(), batchLogTail))
	n, err := f.ReadAt(buf, st.Size()-int64(len(buf)))
	if err != nil && !errors.Is(err, io.EOF) {
		return ""
	}
	return strings.ToValidUTF8(string(buf[:n]), "?")
}
