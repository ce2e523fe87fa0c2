package stage

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// protect makes every mount read-only but those the program was given to write,
// /dev and /proc. What a kubelet protects is the container's image; here it is
// all of the node that the user could otherwise write.
func protect(mounts []Mount) error {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	writable := []string{"/dev", "/proc"}
	for _, m := range mounts {
		if m.ReadOnly {
			continue
		}
		target, err := filepath.EvalSymlinks(m.Target)
		if err != nil {
			if m.Optional {
				continue
			}
			return err
		}
		writable = append(writable, target)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		if len(fields) < 6 {
			continue
		}
		target := unescape(fields[4])
		if beneathAny(target, writable) {
			continue
		}
		// A mount that another one hides, or whose way is barred, cannot be reached
		// by the program either.
		err := readOnly(target)
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOTDIR) {
			return fmt.Errorf("%s: %w", target, err)
		}
	}
	return nil
}

func beneathAny(name string, dirs []string) bool {
	for _, d := range dirs {
		if name == d || strings.HasPrefix(name, d+"/") {
			return true
		}
	}
	return false
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}
