package environment

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Main runs the tests of a package (a *testing.M) in one environment, which env is
// set to meanwhile, and returns the exit status. It chooses Config.Dir. The logs of a
// run that failed are kept, and Progress is told where.
func Main(ctx context.Context, name string, config Config, tests interface{ Run() int }, env **Environment) int {
	if config.Progress == nil {
		config.Progress = io.Discard
	}
	failed := func(what string, err error) int {
		fmt.Fprintf(config.Progress, "%s: %s: %v\n", name, what, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "isthmus-"+name+"-")
	if err != nil {
		return failed("make a directory", err)
	}
	config.Dir = filepath.Join(dir, "env")
	e, err := Start(ctx, config)
	if err != nil {
		return failed("start the environment", err)
	}
	*env = e
	code := tests.Run()
	if err := e.Stop(); err != nil {
		code = failed("stop the environment", err)
	}
	if code != 0 {
		fmt.Fprintln(config.Progress, name+": logs are kept in", e.Dir)
		return code
	}
	_ = os.RemoveAll(dir) // only logs of a run that passed
	return 0
}
