// Package crilog writes and reads container logs in the format of the
// Kubernetes container runtime interface: one line per line of output,
//
//	2026-01-02T15:04:05.000000000Z stdout F text
//
// where P instead of F says that the line goes on in the next entry of the same
// stream. A log is the file <restart>.log and, once that has grown large, older
// parts <restart>.log.1, <restart>.log.2 and so on, the highest number newest.
package crilog

import (
	"bytes"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
)

// MaxText is the longest text of one entry in bytes; longer lines are split.
const MaxText = 16 << 10

// timeFormat is RFC 3339 with all nine digits, so that text order is time order.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// entry is one parsed line.
type entry struct {
	stamp   []byte
	time    time.Time
	partial bool
	text    []byte // without the newline
}

// appendEntry adds one line to b.
func appendEntry(b []byte, now time.Time, stream string, partial bool, text []byte) []byte {
	b = now.UTC().AppendFormat(b, timeFormat)
	b = append(b, ' ')
	b = append(b, stream...)
	if partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	b = append(b, text...)
	return append(b, '\n')
}

// parse reads one line without its newline; ok is false for anything that is
// not an entry.
func parse(line []byte) (e entry, ok bool) {
	stamp, rest, ok1 := bytes.Cut(line, []byte{' '})
	stream, rest, ok2 := bytes.Cut(rest, []byte{' '})
	tags, text, ok3 := bytes.Cut(rest, []byte{' '})
	if !ok1 || !ok2 || !ok3 || len(stamp) > 40 || (string(stream) != "stdout" && string(stream) != "stderr") {
		return entry{}, false
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return entry{}, false
	}
	tag, _, _ := bytes.Cut(tags, []byte{':'})
	if string(tag) != "F" && string(tag) != "P" {
		return entry{}, false
	}
	return entry{stamp: stamp, time: t, partial: string(tag) == "P", text: text}, true
}

// fileName is the current file of a container's run.
func fileName(restart int) string { return strconv.Itoa(restart) + ".log" }

// Runs gives the numbers of the runs that have a log in dir, in order.
func Runs(root *os.Root, dir string) ([]int, error) {
	names, err := atomicfile.Names(root, dir)
	if err != nil {
		return nil, err
	}
	var runs []int
	for _, name := range names {
		digits, ok := strings.CutSuffix(name, ".log")
		if n, err := strconv.Atoi(digits); ok && err == nil && n >= 0 && name == fileName(n) {
			runs = append(runs, n)
		}
	}
	slices.Sort(runs)
	return runs, nil
}

// parts gives the numbers of the older parts of a run's log, oldest first.
func parts(root *os.Root, dir string, restart int) ([]int, error) {
	names, err := atomicfile.Names(root, dir)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, name := range names {
		digits, ok := strings.CutPrefix(name, fileName(restart)+".")
		if n, err := strconv.Atoi(digits); ok && err == nil && n > 0 && strconv.Itoa(n) == digits {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out, nil
}
