package stage

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/provider/podrun/process"
)

// executing is what a stage inside a container reports just before it executes
// the program.
const executing = '+'

// lateReport is how long Failed waits for a report that others hold open.
const lateReport = 2 * time.Second

// A runtime's program has pidLimit to write down its process.
const (
	pidLimit = 10 * time.Second
	pidPause = 10 * time.Millisecond
)

// maxReport bounds a report, in bytes.
const maxReport = 1 << 20

// Process is a started program: the container's main process, or the runtime's
// program that stands for it.
type Process struct {
	*process.Child
	pidFile string

	noted  chan struct{} // closed once failed is final
	failed *Failure
}

// Failed says why the program could not be executed, when that came to light
// only after Start. It is to be asked once no process of the container is left,
// and waits a little for what is still on its way.
func (p *Process) Failed() error {
	timer := time.NewTimer(lateReport)
	defer timer.Stop()
	select {
	case <-p.noted:
	case <-timer.C:
		return nil
	}
	if p.failed == nil {
		return nil
	}
	return p.failed
}

// Main is the process id of the container's main process on the node: as the
// runtime's program wrote it, or found among the marked processes, or else the
// started one.
func (p *Process) Main(mark process.Mark) int {
	if p.pidFile != "" {
		tick, late := time.NewTicker(pidPause), time.NewTimer(pidLimit)
		defer tick.Stop()
		defer late.Stop()
		for waiting := true; waiting; {
			var pid int
			if data, err := os.ReadFile(p.pidFile); err == nil {
				if _, err := fmt.Sscanf(string(data), "%d", &pid); err == nil && pid > 1 {
					return pid
				}
			}
			select {
			case <-tick.C: // the program runs already: its file is just being written
			case <-p.Done():
				waiting = false
			case <-late.C:
				waiting = false
			}
		}
	}
	if pid, ok := mark.Entered(); ok {
		return pid
	}
	return p.PID()
}

// await reads the report until it says that the program runs, or why not.
// inside says that a stage in the container reports, keeps that the report's
// other end stays open with others.
func (p *Process) await(report *os.File, inside, keeps bool) error {
	runs := make(chan struct{})
	var text []byte
	var failure error
	go func() {
		defer close(p.noted)
		defer report.Close()
		buf := make([]byte, 4096)
		for len(text) < maxReport {
			n, err := report.Read(buf)
			first := len(text) == 0 && n > 0
			text = append(text, buf[:n]...)
			if first && keeps && text[0] == executing {
				close(runs)
			}
			if err != nil {
				if !errors.Is(err, io.EOF) && !errors.Is(err, os.ErrDeadlineExceeded) {
					failure = fmt.Errorf("read report: %w", err)
				}
				break
			}
		}
		if said := bytes.TrimPrefix(text, []byte{executing}); len(said) > 0 {
			p.failed = &Failure{}
			if err := json.Unmarshal(said, p.failed); err != nil {
				p.failed = &Failure{Kind: "stage", Message: "decode report: " + err.Error()}
			}
		}
	}()
	ended := p.Done()
	if !keeps {
		ended = nil // the report's end comes first
	}
	select {
	case <-runs:
		return nil
	case <-ended:
		// What the runtime's program left behind may hold the report open, and the
		// last word may still be on its way.
		_ = report.SetReadDeadline(time.Now().Add(lateReport)) // closed already: all has been read
		<-p.noted
		select {
		case <-runs:
			return nil // what it says beyond that, Failed tells
		default:
		}
	case <-p.noted:
	}
	switch {
	case failure != nil:
		return failure
	case p.failed != nil:
		<-p.Done()
		return p.failed
	case len(text) == 0 && inside:
		<-p.Done()
		return p.gaveUp()
	}
	return nil // closed by a successful exec, or the stage was killed: the child's status tells
}

// gaveUp is the failure of a runtime's program that ended before its container
// began. It has told why on its standard error, which is in the container's log.
func (p *Process) gaveUp() error {
	ws := p.Status()
	how := fmt.Sprintf("code %d", ws.ExitStatus())
	if ws.Signaled() {
		how = unix.SignalName(ws.Signal())
	}
	return &Failure{Kind: "runtime", Message: "the runtime's program ended with " + how + " before the container's own program began"}
}

// memory makes an open file without a name that holds v as JSON.
func memory(v any) (*os.File, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode order: %w", err)
	}
	fd, err := unix.MemfdCreate("podrun-order", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create order: %w", err)
	}
	f := os.NewFile(uintptr(fd), "order")
	if _, err = f.Write(data); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("write order: %w", err)
	}
	return f, nil
}
