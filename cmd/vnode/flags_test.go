package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// asVnode makes the test program be vnode itself.
const asVnode = "ISTHMUS_TEST_AS_VNODE"

// TestBadFlags: vnode ends with status 1 and the name of the flag, before it
// speaks to anything: also when those that its kubelet API is to know cannot be told.
func TestBadFlags(t *testing.T) {
	if os.Getenv(asVnode) != "" {
		os.Args = append([]string{"vnode"}, strings.Split(os.Getenv(asVnode), " ")...)
		main()
		return
	}
	dir := t.TempDir()
	empty := write(t, filepath.Join(dir, "empty.crt"), "", 0o600)
	prose := write(t, filepath.Join(dir, "prose.crt"), "no certificate\n", 0o600)
	broken := write(t, filepath.Join(dir, "broken.crt"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o600)
	given := "--config " + filepath.Join(dir, "none.yaml")
	for name, tc := range map[string]struct{ args, flag string }{
		"no such authority":     {given + " --node-ip 127.0.0.1 --client-ca-file " + filepath.Join(dir, "none.crt"), "--client-ca-file"},
		"an empty one":          {given + " --node-ip 127.0.0.1 --client-ca-file " + empty, "--client-ca-file"},
		"one that is prose":     {given + " --node-ip 127.0.0.1 --client-ca-file " + prose, "--client-ca-file"},
		"one that is broken":    {given + " --node-ip 127.0.0.1 --client-ca-file " + broken, "--client-ca-file"},
		"a key without its own": {given + " --node-ip 127.0.0.1 --tls-private-key-file " + prose, "--tls-cert-file"},
		"no address":            {given, "--node-ip"},
		"no BatchCluster":       {"--node-ip 127.0.0.1", "--config"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestBadFlags$") //nolint:gosec // this program
			cmd.Env = append(os.Environ(), asVnode+"="+tc.args)
			out, err := cmd.CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(string(out), tc.flag) {
				t.Errorf("vnode %s ends with %v and says %s", tc.args, err, out)
			}
		})
	}
}
