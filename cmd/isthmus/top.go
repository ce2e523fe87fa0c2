package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/overview"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Bounds of how often and how much `top` shows.
const (
	leastInterval = 200 * time.Millisecond
	defaultRows   = 20
)

func topCommand() *cobra.Command {
	var s source
	var choice overview.Choice
	var interval time.Duration
	var once bool
	c := &cobra.Command{
		Use: "top", Args: cobra.NoArgs,
		Short: "Show queues, GPUs and gangs, with why they wait, as tables that follow the cluster; q ends it",
		RunE: func(c *cobra.Command, _ []string) error {
			if interval < leastInterval {
				return fmt.Errorf("--interval: %s is too short, want at least %s", interval, leastInterval)
			}
			if choice.Rows < 0 {
				return errors.New("--rows: want 0 (all) or more")
			}
			out, follows := c.OutOrStdout().(*os.File)
			follows = follows && !once && s.file == "" && term.IsTerminal(int(out.Fd()))
			view, err := s.open(c.Context())
			if err != nil {
				return err
			}
			defer view.close()
			found := false // a queue that is deleted later leaves an empty table
			show := func(w io.Writer) error {
				now, err := s.now()
				if err != nil {
					return err
				}
				state, p, ses := view.decide(now)
				if found = found || known(state, ses, choice.Queue); !found {
					return noQueue(ses, choice.Queue)
				}
				return overview.Write(w, state, p, ses, choice)
			}
			if !follows {
				return show(c.OutOrStdout())
			}
			return live(c.Context(), os.Stdin, out, interval, func(w io.Writer, columns int) error {
				choice.Width = columns
				return show(w)
			})
		},
	}
	s.flags(c)
	f := c.Flags()
	f.StringVarP(&choice.Namespace, "namespace", "n", "", "show the gangs of this namespace alone")
	f.StringVarP(&choice.Queue, "queue", "q", "", "show the gangs of this queue alone")
	f.IntVar(&choice.Rows, "rows", defaultRows, "rows of each table, 0 for all")
	f.DurationVar(&interval, "interval", 2*time.Second, "time between two looks")
	f.BoolVar(&once, "once", false, "print once; so it is too where the output is no terminal")
	return c
}

// known reports whether a queue exists, or gangs wait for it to do so. None is asked for
// by an empty name.
func known(s *snapshot.Snapshot, ses *framework.Session, queue string) bool {
	return queue == "" || ses.Ledger.Queue(queue) != nil ||
		slices.ContainsFunc(s.Gangs, func(g *snapshot.Gang) bool { return g.Queue == queue })
}
