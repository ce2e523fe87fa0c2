package slurm_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// FuzzSubmit: whatever texts a job has, sbatch is called with the arguments that a
// plain job has, in their order and number, and each of a job's own is the text,
// byte for byte, behind the name of its option; or nothing is called at all.
func FuzzSubmit(f *testing.F) {
	base := fixed(transport.Result{Stdout: []byte("1\n")})
	f.Add("gpu", "acct", "high", "ib", "resv", "/w/k", "alice")
	for _, v := range hostile() {
		f.Add(v, v, v, v, v, "/w/"+v, v)
		f.Add("gpu", v, "high", v, "resv", "/w/"+v, "alice")
	}
	f.Fuzz(func(t *testing.T, partition, account, qos, constraint, reservation, dir, user string) {
		if len(base.asked) == 0 {
			if _, err := backend(t, base).Submit(t.Context(), plain()); err != nil {
				t.Fatal(err)
			}
		}
		spec := plain()
		spec.Partition, spec.Account, spec.QOS, spec.Constraint, spec.Reservation, spec.WorkDir, spec.User = partition, account, qos, constraint, reservation, dir, user
		r := fixed(transport.Result{Stdout: []byte("1\n")})
		if _, err := backend(t, r).Submit(t.Context(), spec); err != nil {
			if kind := backends.KindOf(err); kind != backends.KindInvalid || len(r.asked) != 0 {
				t.Fatalf("%s after %d commands: %v", kind, len(r.asked), err)
			}
			return
		}
		got, want := r.asked[0].Argv, base.asked[0].Argv
		given := map[string]string{"--partition": partition, "--account": account, "--qos": qos, "--constraint": constraint, "--reservation": reservation, "--chdir": dir}
		rest := func(argv []string) (out []string) {
			for _, a := range argv {
				name, _, _ := strings.Cut(a, "=")
				if _, ok := given[name]; !ok && name != "--output" {
					out = append(out, a)
				}
			}
			return out
		}
		if a, b := rest(got), rest(want); strings.Join(a, "\x00") != strings.Join(b, "\x00") {
			t.Fatalf("arguments %q, want %q", a, b)
		}
		for _, a := range got {
			name, value, _ := strings.Cut(a, "=")
			if v, ok := given[name]; ok && value != v {
				t.Fatalf("%s is %q, want %q", name, value, v)
			}
			if name == "--output" && !strings.HasPrefix(meant(value), dir) {
				t.Fatalf("output goes to %q, not beneath %q", value, dir)
			}
		}
		if strings.IndexByte(strings.Join(got, ""), 0) >= 0 {
			t.Fatalf("an argument holds NUL: %q", got)
		}
	})
}

// meant is what Slurm makes of the pattern of an output: "%%" is "%", but where there is a
// backslash, one level of those goes and all else stays.
func meant(pattern string) string {
	if strings.Contains(pattern, `\`) {
		return strings.ReplaceAll(pattern, `\\`, `\`)
	}
	return strings.ReplaceAll(pattern, "%%", "%")
}
