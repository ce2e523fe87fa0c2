package crilog

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
)

// Query says what of a log to print.
type Query struct {
	Tail       int       // last lines only; below 0 for all
	Since      time.Time // entries from then on; zero for all
	LimitBytes int64     // at most so many bytes of output; below 0 for no limit
	Timestamps bool      // each line starts with its time
	// Follow waits for more until Ended reports true; it is polled every Poll.
	Follow bool
	Ended  func() bool
	Poll   time.Duration
}

// longestLine bounds what is held in memory of one line of a file, which the
// user may have written himself.
const longestLine = MaxText + 256

// errLimit ends printing at LimitBytes.
var errLimit = errors.New("limit reached")

// Print writes the log of a run to w as the kubelet does: the text alone, or
// with timestamps. It blocks until everything is printed, with Follow until the
// container ended. The error wraps fs.ErrNotExist when there is no such log.
func Print(ctx context.Context, w io.Writer, root *os.Root, dir string, restart int, q Query) error {
	files, err := openAll(root, dir, restart)
	if err != nil {
		return err
	}
	p := &printer{ctx: ctx, out: bufio.NewWriterSize(w, 64<<10), root: root, dir: dir, restart: restart, query: q, fresh: true}
	defer func() {
		for _, f := range files {
			_ = f.Close()
		}
		if p.file != nil {
			_ = p.file.Close()
		}
	}()
	skip, err := tailStart(files, q.Tail)
	if err != nil {
		return err
	}
	for len(files) > 0 {
		if p.file != nil {
			_ = p.file.Close()
		}
		p.file, files = files[0], files[1:]
		if _, err := p.file.Seek(skip[0], io.SeekStart); err != nil {
			return fmt.Errorf("seek in log: %w", err)
		}
		skip = skip[1:]
		p.in = newLines(p.file)
		if err := p.drain(); err != nil {
			return p.end(err)
		}
	}
	if q.Follow {
		err = p.follow()
	}
	return p.end(err)
}

// openAll opens all parts of a run's log, oldest first. The list is taken again
// when a rotation came in between.
func openAll(root *os.Root, dir string, restart int) ([]*os.File, error) {
	for try := 0; ; try++ {
		older, err := parts(root, dir, restart)
		if err != nil {
			return nil, fmt.Errorf("open log: %w", err)
		}
		var files []*os.File
		for _, n := range older {
			f, err := atomicfile.Open(root, path.Join(dir, fileName(restart)+"."+strconv.Itoa(n)))
			if err == nil {
				files = append(files, f)
			}
		}
		f, err := atomicfile.Open(root, path.Join(dir, fileName(restart)))
		after, listErr := parts(root, dir, restart)
		if (err == nil && listErr == nil && slices.Equal(older, after)) || try == 5 {
			if err == nil {
				return append(files, f), nil
			}
			if len(files) > 0 {
				return files, nil
			}
		} else if err == nil {
			_ = f.Close()
		}
		if err != nil && (try == 5 || len(older)+len(after) == 0) {
			// With parts in either list the file was just being rotated.
			return nil, fmt.Errorf("open log: %w", err)
		}
		for _, f := range files {
			_ = f.Close()
		}
	}
}

// tailStart gives, for each file, the offset from which to print so that the
// last n lines appear. A line of several partial entries counts once.
func tailStart(files []*os.File, n int) ([]int64, error) {
	starts := make([]int64, len(files))
	if n < 0 {
		return starts, nil
	}
	type place struct {
		file   int
		offset int64
	}
	ring := make([]place, 0, min(n, 1024))
	next, fresh := 0, true
	for i, f := range files {
		in := newLines(f)
		for {
			line, err := in.next()
			at := in.offset
			if errors.Is(err, io.EOF) {
				starts[i] = at // where a follower goes on when no line is wanted
				break
			}
			if err != nil {
				return nil, fmt.Errorf("read log: %w", err)
			}
			e, ok := parse(line)
			if !ok {
				continue
			}
			if fresh && n > 0 {
				if len(ring) < n {
					ring = append(ring, place{i, at})
				} else {
					ring[next] = place{i, at}
					next = (next + 1) % n
				}
			}
			fresh = !e.partial
		}
	}
	if len(ring) == 0 {
		return starts, nil
	}
	first := ring[0]
	if len(ring) == n {
		first = ring[next]
	}
	for i := range files {
		if i == first.file {
			starts[i] = first.offset
		} else if i > first.file {
			starts[i] = 0
		}
	}
	return starts, nil
}

type printer struct {
	ctx     context.Context
	out     *bufio.Writer
	root    *os.Root
	dir     string
	restart int
	query   Query
	file    *os.File
	in      *lines
	fresh   bool // the next entry starts a line
	written int64
}

// end turns the inner reason to stop into Print's.
func (p *printer) end(err error) error {
	if ferr := p.out.Flush(); err == nil || errors.Is(err, errLimit) {
		err = ferr
	}
	return err
}

// drain prints whole entries up to the end of the current file.
func (p *printer) drain() error {
	for {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		line, err := p.in.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log: %w", err)
		}
		if e, ok := parse(line); ok {
			if err := p.print(e); err != nil {
				return err
			}
		}
	}
}

func (p *printer) print(e entry) error {
	if e.time.Before(p.query.Since) {
		return nil
	}
	if p.fresh && p.query.Timestamps {
		if err := p.emit(e.stamp, []byte{' '}); err != nil {
			return err
		}
	}
	p.fresh = !e.partial
	if e.partial {
		return p.emit(e.text)
	}
	return p.emit(e.text, []byte{'\n'})
}

func (p *printer) emit(chunks ...[]byte) error {
	for _, b := range chunks {
		limited := false
		if left := p.query.LimitBytes - p.written; p.query.LimitBytes >= 0 && int64(len(b)) >= left {
			b, limited = b[:left], true
		}
		n, err := p.out.Write(b)
		p.written += int64(n)
		if err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		if limited {
			return errLimit
		}
	}
	return nil
}

// follow prints what comes after the end of the current file, through rotations,
// until the container ended.
func (p *printer) follow() error {
	ended := false
	tick := time.NewTicker(p.query.Poll)
	defer tick.Stop()
	for {
		if err := p.out.Flush(); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		if err := p.drain(); err != nil {
			return err
		}
		moved, err := p.advance()
		if err != nil {
			return err
		}
		if moved {
			continue
		}
		if ended {
			return nil
		}
		if ended = p.query.Ended(); ended {
			continue // everything was written before it ended: one more pass sees all
		}
		if err := p.out.Flush(); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		select {
		case <-p.ctx.Done():
			return p.ctx.Err()
		case <-tick.C:
		}
	}
}

// advance goes to the next file when the current one has become an older part.
func (p *printer) advance() (bool, error) {
	mine, err := p.file.Stat()
	if err != nil {
		return false, fmt.Errorf("look at log: %w", err)
	}
	name := path.Join(p.dir, fileName(p.restart))
	cur, err := p.root.Lstat(name)
	if err == nil && os.SameFile(mine, cur) {
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("look at log: %w", err)
	}
	if err := p.drain(); err != nil { // written between our last read and the rename
		return false, err
	}
	for {
		older, err := parts(p.root, p.dir, p.restart)
		if err != nil {
			return false, nil // the directory is gone: Ended will say so
		}
		next := name
		for i, n := range older {
			st, err := p.root.Lstat(name + "." + strconv.Itoa(n))
			if err == nil && os.SameFile(st, mine) && i+1 < len(older) {
				next = name + "." + strconv.Itoa(older[i+1])
			}
		}
		f, err := atomicfile.Open(p.root, next)
		if err != nil {
			return false, nil // the writer is between rename and create
		}
		if again, err := parts(p.root, p.dir, p.restart); err == nil && !slices.Equal(older, again) {
			_ = f.Close() // rotated meanwhile: this may not be the next part
			continue
		}
		_ = p.file.Close()
		p.file, p.in = f, newLines(f)
		return true, nil
	}
}

// lines reads whole lines and remembers where they start.
type lines struct {
	in     *bufio.Reader
	offset int64 // of the line that next will give
	held   []byte
	length int64 // of the line so far, held or not
	given  bool
}

func newLines(r io.ReadSeeker) *lines {
	at, _ := r.Seek(0, io.SeekCurrent) // a regular file always seeks
	return &lines{in: bufio.NewReaderSize(r, 64<<10), offset: at}
}

// next gives the next line without its newline, valid until the next call. An
// unfinished last line is io.EOF until it is finished. A line longer than any
// entry is given cut short, which makes it no entry.
func (l *lines) next() ([]byte, error) {
	if l.given {
		l.offset += l.length
		l.held, l.length, l.given = l.held[:0], 0, false
	}
	for {
		part, err := l.in.ReadSlice('\n')
		l.length += int64(len(part))
		if l.length <= longestLine {
			l.held = append(l.held, part...)
		} else {
			l.held = l.held[:0]
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil:
			return nil, err
		}
		l.given = true
		return bytes.TrimSuffix(l.held, []byte{'\n'}), nil
	}
}
