// Package vcctl builds Volcano's own command line tools from the pinned module, so
// that tests run them unmodified against our controllers.
package vcctl

import (
	"context"
	"io"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// Version is the release that the pins in test/testbed/vcctl/module give.
const Version = "v1.14.1"

// EnsureBuilt builds the tools when one is missing or the pins changed, and returns
// the directory with vcctl, vsub, vcancel, vjobs, vqueues, vsuspend and vresume.
func EnsureBuilt(ctx context.Context, progress io.Writer) (dir string, err error) {
	const cli = "volcano.sh/volcano/cmd/cli"
	return checkout.Tools{
		Name: "vcctl", Version: Version, Module: "test/testbed/vcctl/module", Expect: "three minutes",
		Programs: map[string]string{
			"vcctl": cli, "vsub": cli + "/vsub", "vcancel": cli + "/vcancel", "vjobs": cli + "/vjobs",
			"vqueues": cli + "/vqueues", "vsuspend": cli + "/vsuspend", "vresume": cli + "/vresume",
		},
	}.EnsureBuilt(ctx, progress)
}
