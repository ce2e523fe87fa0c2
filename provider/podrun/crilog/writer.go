package crilog

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Limits bound the log of one run of a container.
type Limits struct {
	FileBytes int64 // a file is rotated once it is larger
	Files     int   // files kept, the current one included
}

// KubeletLimits are the kubelet's defaults: 5 files of 10 MiB.
func KubeletLimits() Limits { return Limits{FileBytes: 10 << 20, Files: 5} }

// syncEvery bounds how long output may be invisible on another host of a shared
// filesystem.
const syncEvery = 2 * time.Second

// Writer is the log of one run of a container. A full disk never blocks the
// container: what cannot be written is counted, and a later line says so.
type Writer struct {
	root   *os.Root
	dir    string
	name   string
	limits Limits
	now    func() time.Time

	mu     sync.Mutex
	file   *os.File // nil while the file could not be opened
	size   int64
	part   int // number of the newest older part
	lost   int64
	cause  error
	dirty  bool
	synced time.Time
	later  *time.Timer // runs once there is something to sync, so that a silent container wakes nobody
}

// NewWriter opens the log of the given run in dir beneath root, which it makes
// when missing. An existing file is continued. When the log cannot be opened,
// the Writer tries again with every write.
func NewWriter(root *os.Root, dir string, restart int, limits Limits, now func() time.Time) *Writer {
	w := &Writer{root: root, dir: dir, name: fileName(restart), limits: limits, now: now, synced: now()}
	if older, err := parts(root, dir, restart); err == nil && len(older) > 0 {
		w.part = older[len(older)-1]
	}
	_ = w.open() // write tries again and counts what is lost meanwhile
	return w
}

func (w *Writer) open() error {
	if err := w.root.MkdirAll(w.dir, 0o700); err != nil {
		return fmt.Errorf("make log directory: %w", err)
	}
	f, err := w.root.OpenFile(path.Join(w.dir, w.name), os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return fmt.Errorf("open log: %w", err)
	}
	w.file, w.size = f, st.Size()
	return nil
}

// Copy logs what r gives as lines of a stream ("stdout" or "stderr"), until r
// ends or fails. A last line without a newline is logged as a part of one, so
// that readers do not make up its end.
func (w *Writer) Copy(stream string, r io.Reader) {
	buf := make([]byte, 0, 2*MaxText)
	var out []byte
	for {
		n, err := r.Read(buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+n]
		out = out[:0]
		rest := buf
		for {
			i := bytes.IndexByte(rest, '\n')
			switch {
			case i > MaxText || (i < 0 && len(rest) > MaxText):
				out = appendEntry(out, w.now(), stream, true, rest[:MaxText])
				rest = rest[MaxText:]
				continue
			case i >= 0:
				out = appendEntry(out, w.now(), stream, false, rest[:i])
				rest = rest[i+1:]
				continue
			}
			break
		}
		if err != nil && len(rest) > 0 {
			out = appendEntry(out, w.now(), stream, true, rest)
			rest = nil
		}
		w.write(out)
		if err != nil {
			return
		}
		buf = buf[:copy(buf[:cap(buf)], rest)]
	}
}

// write appends whole entries.
func (w *Writer) write(b []byte) {
	if len(b) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.file != nil && w.size > 0 && w.size+int64(len(b)) > w.limits.FileBytes {
		w.rotate()
	}
	if w.file == nil {
		if err := w.open(); err != nil {
			w.lose(len(b), err)
			return
		}
	}
	if w.lost > 0 {
		note := fmt.Sprintf("[podrun: %d bytes of log were lost here: %v]", w.lost, w.cause)
		if !w.append(appendEntry(nil, w.now(), "stderr", false, []byte(note))) {
			w.lose(len(b), w.cause)
			return
		}
		w.lost, w.cause = 0, nil
	}
	if !w.append(b) {
		w.lose(len(b), w.cause)
		return
	}
	if now := w.now(); now.Sub(w.synced) >= syncEvery {
		w.sync(now)
	}
}

// append writes b or leaves the file as it was.
func (w *Writer) append(b []byte) bool {
	if _, err := w.file.Write(b); err != nil {
		w.cause = err
		_ = w.file.Truncate(w.size) // a torn line is worse than a lost one; readers skip it if this fails too
		return false
	}
	w.size += int64(len(b))
	if !w.dirty {
		w.dirty = true
		w.soon()
	}
	return true
}

func (w *Writer) lose(n int, err error) { w.lost, w.cause = w.lost+int64(n), err }

// rotate makes the current file an older part; on failure it just goes on growing.
func (w *Writer) rotate() {
	current := path.Join(w.dir, w.name)
	older := current + "." + strconv.Itoa(w.part+1)
	if err := w.root.Rename(current, older); err != nil {
		return
	}
	w.sync(w.now())
	_ = w.file.Close()
	w.file = nil
	w.part++
	if drop := w.part - (w.limits.Files - 1); drop > 0 {
		_ = w.root.Remove(current + "." + strconv.Itoa(drop)) // a part too many is no harm
	}
}

func (w *Writer) sync(now time.Time) {
	if w.file != nil && w.dirty {
		_ = w.file.Sync()
	}
	w.dirty, w.synced = false, now
}

// soon has what was written synced, so that the last lines of a container that
// falls silent appear on other hosts.
func (w *Writer) soon() {
	if w.later != nil {
		w.later.Reset(syncEvery)
		return
	}
	w.later = time.AfterFunc(syncEvery, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.dirty {
			w.sync(w.now())
		}
	})
}

// Close syncs and closes the log. Its error is the last one that lost output.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.later != nil {
		w.later.Stop() // one that runs already finds nothing to do
	}
	w.sync(w.now())
	var err error
	if w.lost > 0 {
		err = fmt.Errorf("%d bytes of log were lost: %w", w.lost, w.cause)
	}
	if w.file != nil {
		err = errors.Join(err, w.file.Close())
		w.file = nil
	}
	return err
}
