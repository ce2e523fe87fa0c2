package image

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
)

// CopyPrograms puts programs of this machine in, by name or path, with the
// libraries they are linked with.
func (t *Tree) CopyPrograms(ctx context.Context, programs ...string) error {
	for _, name := range programs {
		if !filepath.IsAbs(name) {
			name = filepath.Join("/usr/bin", name)
		}
		if err := t.Copy(name); err != nil {
			return err
		}
		libraries, err := libraries(ctx, name)
		if err != nil {
			return err
		}
		for _, l := range libraries {
			if err := t.Copy(l); err != nil {
				return err
			}
		}
	}
	return nil
}

// libraries asks the loader what a program needs. Static programs and scripts
// need nothing.
func libraries(ctx context.Context, program string) ([]string, error) {
	cmd := exec.CommandContext(ctx, "ldd", program)
	cmd.Env = []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}
	raw, err := cmd.CombinedOutput()
	text := string(raw)
	if strings.Contains(text, "not a dynamic executable") || strings.Contains(text, "statically linked") {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("find libraries of %s: %w: %s", program, err, strings.TrimSpace(text))
	}
	var out []string
	for line := range strings.Lines(text) {
		// "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)", "/lib64/ld-linux-x86-64.so.2 (0x...)"
		_, path, linked := strings.Cut(line, "=>")
		if !linked {
			path = line
		}
		path, _, _ = strings.Cut(strings.TrimSpace(path), " ")
		if filepath.IsAbs(path) {
			out = append(out, path)
		}
	}
	return out, nil
}
