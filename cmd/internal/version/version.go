// Package version says which version of the programs this is.
package version

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// String is the version of the module that this program was built of, or of the commit
// where it has none, then Go's version and the platform.
func String() string {
	of := "(devel)" // built without version control, or a test
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		of = info.Main.Version
	}
	return fmt.Sprintf("%s %s %s/%s", of, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}
