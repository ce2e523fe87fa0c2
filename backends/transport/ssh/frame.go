package ssh

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

const (
	// maxNoise bounds what a login shell may print before the command starts.
	maxNoise = 1 << 20
	// keptNoise is how much of its end is kept for people.
	keptNoise = 2 << 10
	// maxFrame bounds the text of a frame.
	maxFrame = 512
	// stderrTail is how much of the standard error stream is kept.
	stderrTail = 64 << 10
	// defaultMaxOutput is the bound on collected output when the command sets none.
	defaultMaxOutput = 64 << 20
)

// Letters of frames.
const (
	frameStart = 'S'
	frameEnd   = 'E'
	frameNever = 'N'
)

var (
	errNoise     = fmt.Errorf("the login shell printed more than %d bytes before the command started", maxNoise)
	errMalformed = errors.New("malformed frame")
)

// scanner splits one output stream of a session: noise of the login shell, the
// start frame, what the command wrote, the end frame.
type scanner struct {
	mark    []byte    // byte 036 and the marker
	sink    io.Writer // takes the command's output
	started func(text string)
	noise   []byte // the end of what came before the start

	buf      []byte // what is not yet passed on
	store    []byte // holds buf, and is used again
	begun    bool
	seen     int // bytes of noise
	sinkErr  error
	finished byte   // frameEnd, frameNever, or 0 when the stream just ended
	text     string // of that frame
}

// scan reads r until the last frame or the end of the stream. It returns an
// error when the sink failed, and goes no further then, or when the stream is
// not what the script writes.
func (s *scanner) scan(r io.Reader) error {
	chunk := make([]byte, 32<<10)
	for {
		n, err := r.Read(chunk)
		s.store = append(s.store[:0], s.buf...)
		s.store = append(s.store, chunk[:n]...)
		s.buf = s.store
		if perr := s.process(); perr != nil || s.finished != 0 {
			return perr
		}
		if err != nil {
			if s.begun && len(s.buf) > 0 {
				_, werr := s.sink.Write(s.buf)
				s.buf = nil
				return werr
			}
			s.addNoise(s.buf)
			return nil // whether the stream was whole is told by finished
		}
	}
}

func (s *scanner) process() error {
	for {
		i := bytes.Index(s.buf, s.mark)
		if i < 0 {
			// The end may be the beginning of a mark.
			return s.emit(len(s.buf) - overlap(s.buf, s.mark))
		}
		if err := s.emit(i); err != nil {
			return err
		}
		rest := s.buf[len(s.mark):]
		end := bytes.IndexByte(rest, '\n')
		if end < 0 {
			if len(rest) > maxFrame {
				return errMalformed
			}
			return nil
		}
		if end == 0 {
			return errMalformed
		}
		letter, text := rest[0], string(rest[1:end])
		s.buf = rest[end+1:]
		switch {
		case letter == frameStart && !s.begun:
			s.begun = true
			s.started(text)
		case letter == frameEnd && s.begun, letter == frameNever && !s.begun:
			s.finished, s.text = letter, text
			return nil
		default:
			return errMalformed
		}
	}
}

// emit passes the first n bytes on.
func (s *scanner) emit(n int) error {
	if n == 0 {
		return nil
	}
	out := s.buf[:n]
	s.buf = s.buf[n:]
	if s.begun {
		_, err := s.sink.Write(out)
		return err
	}
	s.addNoise(out)
	if s.seen > maxNoise {
		return errNoise
	}
	return nil
}

func (s *scanner) addNoise(p []byte) {
	s.seen += len(p)
	s.noise = append(s.noise, p...)
	if len(s.noise) > keptNoise {
		s.noise = append([]byte(nil), s.noise[len(s.noise)-keptNoise:]...)
	}
}

// overlap is the length of the longest end of buf that mark begins with.
func overlap(buf, mark []byte) int {
	for n := min(len(buf), len(mark)-1); n > 0; n-- {
		if bytes.Equal(buf[len(buf)-n:], mark[:n]) {
			return n
		}
	}
	return 0
}

// exitCode reads the text of an end frame.
func exitCode(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil || n < 0 || n > 255 {
		return 0, fmt.Errorf("%w: exit code %q", errMalformed, text)
	}
	return n, nil
}

// kept is a bounded buffer: past its limit it drops the beginning.
type kept struct {
	limit int64
	buf   []byte
}

func (k *kept) Write(p []byte) (int, error) {
	k.buf = append(k.buf, p...)
	// Twice the limit is let stand, so that the cost of moving is spread.
	if int64(len(k.buf)) > 2*k.limit {
		k.buf = append(k.buf[:0], k.buf[int64(len(k.buf))-k.limit:]...)
	}
	return len(p), nil
}

func (k *kept) bytes() []byte {
	if int64(len(k.buf)) > k.limit {
		return k.buf[int64(len(k.buf))-k.limit:]
	}
	return k.buf
}
