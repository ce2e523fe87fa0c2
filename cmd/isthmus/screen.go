package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// Sequences of terminals, of which all in use know these.
const (
	enterScreen = "\x1b[?1049h\x1b[?25l" // another screen, without a cursor
	leaveScreen = "\x1b[?25h\x1b[?1049l" // the one from before, as it was
	home        = "\x1b[H"
	eraseLine   = "\x1b[K"
	eraseBelow  = "\x1b[J"
)

// screen is a terminal that shows one page after another.
type screen struct {
	in, out *os.File
	was     *unix.Termios // nil where keys cannot be read
}

// live shows pages until ctx ends or somebody types q: a new one each interval, and at
// once when the terminal gets another size or the program goes on after a stop. Then
// the terminal is as it was. The page is asked for with the columns that there are.
func live(ctx context.Context, in, out *os.File, interval time.Duration, page func(w io.Writer, columns int) error) error {
	s := &screen{in: in, out: out}
	// One each: a channel drops what it has no room for, and neither stands for the other.
	resized, resumed := make(chan os.Signal, 1), make(chan os.Signal, 1)
	signal.Notify(resized, syscall.SIGWINCH)
	signal.Notify(resumed, syscall.SIGCONT)
	defer signal.Stop(resized)
	defer signal.Stop(resumed)
	defer s.leave()
	if err := s.enter(); err != nil {
		return err
	}
	var ends <-chan struct{}
	if s.was != nil {
		ends = s.keys()
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		if err := s.show(page); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ends:
			return nil
		case <-resized:
		case <-resumed: // a shell has had the terminal meanwhile
			if err := s.enter(); err != nil {
				return err
			}
		case <-tick.C:
		}
	}
}

// enter takes the terminal: keys come one by one and are not shown, and those that send
// signals still do.
func (s *screen) enter() error {
	if was, err := unix.IoctlGetTermios(int(s.in.Fd()), unix.TCGETS); err == nil { // otherwise there are no keys
		if s.was == nil {
			s.was = was
		}
		keys := *s.was
		keys.Lflag &^= unix.ICANON | unix.ECHO
		keys.Cc[unix.VMIN], keys.Cc[unix.VTIME] = 1, 0
		if err := unix.IoctlSetTermios(int(s.in.Fd()), unix.TCSETS, &keys); err != nil {
			return fmt.Errorf("set terminal: %w", err)
		}
	}
	return s.write(enterScreen)
}

// leave gives the terminal back; whether that succeeds nobody could be told.
func (s *screen) leave() {
	_ = s.write(leaveScreen)
	if s.was != nil {
		_ = unix.IoctlSetTermios(int(s.in.Fd()), unix.TCSETS, s.was)
	}
}

func (s *screen) write(text string) error {
	if _, err := s.out.WriteString(text); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// keys returns what is closed when somebody has typed q, or nothing can be typed any
// more. Who reads lives as long as the program: a read cannot be taken back.
func (s *screen) keys() <-chan struct{} {
	ends := make(chan struct{})
	go func() {
		defer close(ends)
		key := make([]byte, 1)
		for {
			if n, err := s.in.Read(key); err != nil || n == 0 || key[0] == 'q' || key[0] == 'Q' {
				return
			}
		}
	}()
	return ends
}

// show draws a page over the one before, as much of it as fits.
func (s *screen) show(page func(w io.Writer, columns int) error) error {
	columns, rows, err := term.GetSize(int(s.out.Fd()))
	if err != nil || columns <= 0 || rows <= 0 { // some have none, over serial lines
		columns, rows = 80, 24
	}
	var text bytes.Buffer
	if err := page(&text, columns); err != nil {
		return err
	}
	return s.write(home + strings.Join(fit(text.String(), columns, rows), eraseLine+"\n") + eraseLine + eraseBelow)
}

// fit is the lines of a page that a terminal has room for; the last one says how many
// are left out.
func fit(text string, columns, rows int) []string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	if len(lines) <= rows {
		return lines
	}
	more := []rune(fmt.Sprintf("(%d more lines)", len(lines)-rows+1))
	return append(lines[:rows-1:rows-1], string(more[:min(len(more), columns)]))
}
