package transporttest

import (
	"context"
	"sync/atomic"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// Counting is a runner that counts the runs of one program.
type Counting struct {
	transport.Runner
	// Program is the first word of commands that count.
	Program string

	runs atomic.Int64
}

// Run implements transport.Runner.
func (c *Counting) Run(ctx context.Context, cmd transport.Command) (transport.Result, error) {
	if cmd.Argv[0] == c.Program {
		c.runs.Add(1)
	}
	return c.Runner.Run(ctx, cmd)
}

// Runs is how often the program was run.
func (c *Counting) Runs() int { return int(c.runs.Load()) }
