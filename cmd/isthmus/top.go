package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/isthmus-hpc/isthmus/scheduler/overview"
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
		Short: "Show queues, GPUs and gangs, with why they wait, as tables that follow the cluster",
		RunE: func(c *cobra.Command, _ []string) error {
			if interval < leastInterval {
				return fmt.Errorf("--interval: %s is too short, want at least %s", interval, leastInterval)
			}
			if choice.Rows < 0 {
				return errors.New("--rows: want 0 (all) or more")
			}
			screen, live := c.OutOrStdout().(*os.File)
			live = live && !once && s.file == "" && term.IsTerminal(int(screen.Fd()))
			view, err := s.open(c.Context())
			if err != nil {
				return err
			}
			defer view.close()
			show := func(w io.Writer) error {
				now, err := s.now()
				if err != nil {
					return err
				}
				state, p, ses := view.decide(now)
				return overview.Write(w, state, p, ses, choice)
			}
			if !live {
				return show(c.OutOrStdout())
			}
			tick := time.NewTicker(interval)
			defer tick.Stop()
			for {
				var page bytes.Buffer
				page.WriteString("\x1b[H\x1b[2J") // from the top, on an empty screen
				if width, _, err := term.GetSize(int(screen.Fd())); err == nil {
					choice.Width = width
				}
				if err := show(&page); err != nil {
					return err
				}
				if _, err := screen.Write(page.Bytes()); err != nil {
					return fmt.Errorf("print: %w", err)
				}
				select {
				case <-c.Context().Done():
					return nil
				case <-tick.C:
				}
			}
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
