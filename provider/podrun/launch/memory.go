package launch

import (
	"bytes"
	"errors"
	"io"
	"time"
)

// errOutOfMemory says that the batch system killed the members for their use of memory.
var errOutOfMemory = errors.New("the batch system killed the pods, since together they used more memory than their job has")

// stderrDelay bounds the wait for what srun has said by its end.
const stderrDelay = 5 * time.Second

// listener passes on what srun says, and hears whether Slurm killed the step for its use
// of memory (OverMemoryKill): "slurmstepd: error: StepId=1.0 exceeded memory limit (638697472
// > 104857600), being killed" (22.05). Slurm itself tells nobody else. With cgroups the
// kernel kills single processes, and the members see that.
type listener struct {
	to          io.Writer
	line        []byte // as far as it has come
	outOfMemory bool
}

// longest line that is looked at.
const maxLine = 4 << 10

// Write implements io.Writer.
func (l *listener) Write(data []byte) (int, error) {
	for rest := data; len(rest) > 0; {
		part, after, whole := bytes.Cut(rest, []byte("\n"))
		if room := maxLine - len(l.line); room > 0 {
			l.line = append(l.line, part[:min(room, len(part))]...)
		}
		if whole {
			l.outOfMemory = l.outOfMemory || saysOutOfMemory(l.line)
			l.line = l.line[:0]
		}
		rest = after
	}
	return l.to.Write(data)
}

func saysOutOfMemory(line []byte) bool {
	return bytes.HasPrefix(line, []byte("slurmstepd")) && bytes.Contains(line, []byte(" exceeded memory limit ")) && bytes.Contains(line, []byte("being killed"))
}
