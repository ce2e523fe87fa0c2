package launch

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// A gang that others follow did not end well when a member was told to end, however
// well the member took it.
func TestFollowed(t *testing.T) {
	for name, tt := range map[string]struct {
		followed, told bool
		phase          manifest.Phase
		code           int
	}{
		"all went well":         {true, false, manifest.PhaseSucceeded, ExitSucceeded},
		"told to end, followed": {true, true, manifest.PhaseSucceeded, ExitFailed},
		"told to end":           {false, true, manifest.PhaseSucceeded, ExitSucceeded},
		"failed":                {true, false, manifest.PhaseFailed, ExitFailed},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write := func(file, text string) {
				t.Helper()
				path := filepath.Join(dir, "pods", "0", file)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write("status.json", `{"version":1,"restart":2,"phase":"`+string(tt.phase)+`"}`)
			if tt.told {
				write("ctl/stop", `{"graceSeconds":1}`)
			}
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			g := &manifest.Gang{Followed: tt.followed, Members: []manifest.Member{{Namespace: "ns", Name: "p"}}}
			if code, _, message := judge(root, 2, g, nil); code != tt.code || code == ExitSucceeded && message != "" {
				t.Errorf("exit %d (%s), want %d", code, message, tt.code)
			}
		})
	}
}
