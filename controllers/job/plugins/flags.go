package plugins

import (
	"errors"
	"flag"
	"fmt"
	"io"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Flags is the flag set of a plugin: it prints nothing, its errors are shown to
// the user of the job.
func Flags(name string) *flag.FlagSet {
	flags := flag.NewFlagSet(name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	return flags
}

// Parse reads a plugin's arguments strictly: flags only, each a known one.
func Parse(flags *flag.FlagSet, args []string) error {
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return errors.New("flag provided but not defined: -help")
		}
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("plugin %s takes flags only, got %q", flags.Name(), flags.Args())
	}
	return nil
}

// CheckPorts says which flag is no port.
func CheckPorts(ports map[string]int) error {
	for name, port := range ports {
		for _, msg := range validation.IsValidPortNum(port) {
			return fmt.Errorf("--%s=%d: %s", name, port, msg)
		}
	}
	return nil
}
