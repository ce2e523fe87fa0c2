package launch

import (
	"bytes"
	"strings"
	"testing"
)

// TestListener: what srun says is passed on byte for byte, however it is cut, and only
// Slurm's own word for a step that used too much memory is taken for that.
func TestListener(t *testing.T) {
	for text, want := range map[string]bool{
		"slurmstepd: error: StepId=1.0 exceeded memory limit (638697472 > 104857600), being killed\n":                                true,
		"srun: first\nslurmstepd-g1: error: StepId=1+0.0 exceeded memory limit (2 > 1), being killed\nsrun: error: task 0: Killed\n": true,
		"slurmstepd: error: *** STEP 1.0 ON g1 CANCELLED AT 2026-11-27T02:13:18 ***\n":                                               false,
		"podrun: slurmstepd: error: StepId=1.0 exceeded memory limit (2 > 1), being killed\n":                                        false,
		"slurmstepd: error: Detected 1 oom-kill event(s) in StepId=1.0.\n":                                                           false,
		strings.Repeat("x", 3*maxLine) + "\nslurmstepd: error: StepId=1.0 exceeded memory limit (2 > 1), being killed\n":             true,
		"": false,
	} {
		for _, piece := range []int{1, 7, 1 << 20} {
			var out bytes.Buffer
			l := &listener{to: &out}
			for rest := text; rest != ""; {
				n := min(piece, len(rest))
				if m, err := l.Write([]byte(rest[:n])); m != n || err != nil {
					t.Fatalf("%d of %d, %v", m, n, err)
				}
				rest = rest[n:]
			}
			if out.String() != text || l.outOfMemory != want {
				t.Errorf("%.60q by %d: %t, want %t; passed on %t", text, piece, l.outOfMemory, want, out.String() == text)
			}
		}
	}
}
