package pbs_test

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/pbs"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// payloads is a corpus of hostile texts; each holds the word M.
func payloads() []string {
	seeds := []string{
		"$(touch M)", "`touch M`", "; touch M", "| touch M", "&& touch M", "\ntouch M\n", "'; touch M; '", "\"; touch M; \"",
		"#PBS -u root M", "\n#PBS -W group_list=root M\n", "-u root,M", "-oM", "--M", "-M", "M\x00", "M\xff\xfe", "../../M", "/etc/M",
		"M,ISTHMUS_TAG=isthmus/other/k1", "M,LD_PRELOAD=/tmp/x.so", "M:=N", "M:ncpus=999", "M+64:ncpus=64", "M:mem=1kb", "ncpus=1:M", "select=M",
		"M=1", "=M", "M@server", "M.server", "M%s%n", "${IFS}M", "$M", "M\t", " M", "{M}", "[M]", "*M?", "~M", "M&", "M>x", "<M", "!M", "\\M",
		"\x1b[31mM", "M\u2028N", "\u202eM", "root M", "M^array_index^", "host:/M", "M/x", "M\\,N", "M'--'", "0M", strings.Repeat("M", 400),
	}
	var out []string
	for _, s := range seeds {
		out = append(out, s, "x"+s, s+"x", "a-"+s+"-b")
	}
	return append(out, "M", "m", ".M", "_M")
}

// Whatever stands in a field of a job: it is refused, or it is the value of the
// one option it belongs to. It never becomes another option, another variable,
// another resource, or a part of the script.
func TestHostileSpecs(t *testing.T) {
	corpus := payloads()
	if len(corpus) < 200 {
		t.Fatalf("%d payloads", len(corpus))
	}
	fields := map[string]func(*backends.JobSpec, string){
		"key":   func(s *backends.JobSpec, v string) { s.Key = backends.Key(v) },
		"owner": func(s *backends.JobSpec, v string) { s.Owner = v }, "user": func(s *backends.JobSpec, v string) { s.User = v },
		"partition": func(s *backends.JobSpec, v string) { s.Partition = v }, "account": func(s *backends.JobSpec, v string) { s.Account = v },
		"qos": func(s *backends.JobSpec, v string) { s.QOS = v }, "constraint": func(s *backends.JobSpec, v string) { s.Constraint = v },
		"reservation": func(s *backends.JobSpec, v string) { s.Reservation = v }, "work dir": func(s *backends.JobSpec, v string) { s.WorkDir = "/w/" + v },
		"GPU type": func(s *backends.JobSpec, v string) { s.Components[0].GPUs = map[string]int64{v: 1} },
	}
	var ran []transport.Command
	var script []byte
	accepted, refused := 0, 0
	for _, dialect := range []pbs.Dialect{pbs.Pro, pbs.Torque} {
		version := map[pbs.Dialect]string{pbs.Pro: "pbs_version = 23.06.06\n", pbs.Torque: "Version: 6.1.3\n"}[dialect]
		r := &answers{t: t, files: map[string]string{"qstat --version": version, "qstat -B -f": "Server: s\n", "qsub": "1.pbs\n",
			"pbsnodes -a -v": "n1\n     state = free\n     resources_available.gpu_type = a100\n"}}
		r.say = func(c transport.Command) (transport.Result, error) {
			if c.Argv[0] == "qsub" {
				ran = append(ran, c)
				var err error
				if script, err = io.ReadAll(c.Stdin); err != nil {
					return transport.Result{}, err
				}
			}
			return transport.Result{Exit: -1}, nil
		}
		b := replay(t, r, dialect)
		base := func() backends.JobSpec {
			return backends.JobSpec{Key: "k1", Owner: "o", User: "u", Partition: "p", Account: "a", Reservation: "r", WorkDir: "/w/d",
				Walltime: time.Hour, Components: []backends.Component{{Tasks: 1, CPUs: 1, MemoryMiB: 5, GPUs: map[string]int64{"": 1}}}}
		}
		if _, err := b.Submit(t.Context(), base()); err != nil {
			t.Fatal(err)
		}
		want, constant := ran[0].Argv, string(script)
		for field, set := range fields {
			for _, payload := range corpus {
				spec := base()
				set(&spec, payload)
				ran = nil
				if _, err := b.Submit(t.Context(), spec); err != nil {
					if backends.KindOf(err) != backends.KindInvalid || len(ran) > 0 {
						t.Errorf("%s %s %q: %v, %d commands", dialect, field, payload, err, len(ran))
					}
					refused++
					continue
				}
				accepted++
				if err := sameShape(want, ran[0].Argv, spec); err != nil || string(script) != constant {
					t.Errorf("%s %s %q: %v\n%q", dialect, field, payload, err, ran[0].Argv)
				}
				for _, e := range ran[0].Env {
					if e != "LC_ALL=C" && e != "TZ=UTC" {
						t.Errorf("%s %s %q: qsub has %q in its environment", dialect, field, payload, e)
					}
				}
			}
		}
		ran = nil
	}
	t.Logf("%d fields x %d payloads x 2 families: %d accepted as data, %d refused", len(fields), len(corpus), accepted, refused)
}

// sameShape compares a command line with one of harmless values.
func sameShape(want, got []string, spec backends.JobSpec) error {
	options := func(argv []string) (out []string) {
		for i := 1; i < len(argv); i++ {
			out = append(out, argv[i])
			if argv[i] != "-h" {
				i++
			}
		}
		return out
	}
	extra := map[bool][]string{true: {"-l"}}[spec.QOS != ""] // qos of Torque
	a, b := append(options(want), extra...), options(got)
	slices.Sort(a)
	slices.Sort(b)
	if !slices.Equal(a, b) {
		return fmt.Errorf("options %v, want %v", b, a)
	}
	for i, v := range got {
		if i == 0 || v == "" || v[0] == '-' {
			if v == "" || got[max(0, i-1)] != "" && i > 0 && got[i-1][0] == '-' && got[i-1] != "-h" && v[0] == '-' {
				return fmt.Errorf("value %q of %s", v, got[max(0, i-1)])
			}
			continue
		}
		if strings.ContainsAny(v, " \t\n\"'`$;&|<>*?(){}[]\\!~#\x00") {
			return fmt.Errorf("a character for a shell in %q", v)
		}
		if strings.Count(v, ",") > 0 && strings.Count(v, ",") != 3 || strings.Count(v, "+") > 0 {
			return fmt.Errorf("a list in %q", v)
		}
	}
	return nil
}
