// Command summary reads the output of `go test -json` and writes what a person
// wants to know: a line a package, the output of what failed, every test that was
// skipped with its reason, and which tests took longest. It exits 1 when anything
// failed or nothing ran.
//
// With -again N, up to N tests that failed are run once more, alone, with the
// flags of `go test` that follow. One that passes then is listed as UNSTABLE, with
// the output of its failure above: on a machine that does much at once a wait can
// run out. A data race, a panic and a leak are failures whatever follows.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
)

func main() {
	again := flag.Int("again", 0, "run up to so many failed `tests` once more")
	flag.Parse()
	r := summarize(os.Stdin, os.Stdout)
	unstable := r.again(*again, os.Stdout, func(pkg, run string) bool { return rerun(os.Stdout, flag.Args(), pkg, run) })
	if !r.passed(unstable) {
		os.Exit(1)
	}
}

// report is what there was to say about a run.
type report struct {
	failed []failure
	sound  bool // something ran, and its output was read whole
}

// failure is a test that failed, or a package, when test is "".
type failure struct {
	pkg, test string
	final     bool // whatever a second run says
}

func (f failure) top() string {
	top, _, _ := strings.Cut(f.test, "/")
	return top
}

// neverExcused is what the output of a failure may not hold to be looked at twice.
var neverExcused = regexp.MustCompile(`DATA RACE|panic:|fatal error:|found unexpected goroutines|[1-9]\d* double run`)

// event is one line of `go test -json`; see `go doc test2json`. A last one that
// the Makefile writes, Action "exit", has the exit status of go test in Elapsed.
type event struct {
	Action     string
	Package    string
	ImportPath string // of a build
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// maxKept bounds what is kept of one test's output, in lines.
const maxKept = 400

// summarize reads a run and writes its summary.
func summarize(in io.Reader, out io.Writer) report {
	began := time.Now()
	output := map[string][]string{} // by package and test, until it has passed
	counts := map[string]int{}
	var skipped []string
	var failed []failure
	var ended []timed
	unexplained := false // go test says it failed
	scanner := bufio.NewScanner(in)
	scanner.Buffer(nil, 16<<20)
	for scanner.Scan() {
		var e event
		if err := json.Unmarshal(scanner.Bytes(), &e); err != nil {
			// Not JSON: the go command itself has something to say.
			fmt.Fprintln(out, scanner.Text())
			continue
		}
		name := e.Package + " " + e.Test
		if e.ImportPath != "" {
			name = e.ImportPath
		}
		if e.Test != "" && e.Elapsed > 0 && !strings.Contains(e.Test, "/") {
			ended = append(ended, timed{name, e.Elapsed})
		}
		switch e.Action {
		case "output", "build-output":
			if kept := output[name]; len(kept) < maxKept {
				output[name] = append(kept, e.Output)
			}
		case "build-fail":
			fmt.Fprint(out, strings.Join(output[name], ""))
			failed = append(failed, failure{pkg: name, final: true})
		case "skip":
			if e.Test != "" {
				skipped = append(skipped, fmt.Sprintf("%s: %s", name, reason(output[name])))
			}
			delete(output, name)
		case "fail":
			said := strings.Join(output[name], "")
			fmt.Fprint(out, said)
			final := neverExcused.MatchString(said)
			if e.Test == "" {
				fmt.Fprintf(out, "FAIL  %-70s %6.1fs\n", e.Package, e.Elapsed)
				// A package fails with its tests; without one, or beyond them, for itself.
				if of := slices.ContainsFunc(failed, func(f failure) bool { return f.pkg == e.Package }); final || !of {
					failed = append(failed, failure{pkg: e.Package, final: true})
				}
			} else {
				failed = append(failed, failure{e.Package, e.Test, final})
			}
			delete(output, name)
		case "exit":
			unexplained = e.Elapsed != 0
		case "pass":
			if e.Test == "" {
				fmt.Fprintf(out, "ok    %-70s %6.1fs\n", e.Package, e.Elapsed)
			} else {
				counts["pass"]++
			}
			delete(output, name)
		}
	}
	if err := scanner.Err(); err != nil {
		fmt.Fprintln(out, "read the output of go test:", err)
		return report{failed: failed}
	}
	slices.Sort(skipped)
	tests := 0
	for _, f := range failed {
		if f.test != "" {
			tests++
		}
	}
	fmt.Fprintf(out, "\n%d tests passed, %d failed, %d skipped, in %s\n",
		counts["pass"], tests, len(skipped), time.Since(began).Round(time.Second))
	for _, s := range skipped {
		fmt.Fprintln(out, "  skipped", s)
	}
	for _, f := range failed {
		fmt.Fprintln(out, "  FAILED ", f.pkg, f.test)
	}
	for _, t := range slowest(ended) {
		fmt.Fprintf(out, "  slow     %6.1fs  %s\n", t.seconds, t.name)
	}
	if counts["pass"] == 0 && len(failed) == 0 {
		fmt.Fprintln(out, "nothing ran")
		return report{}
	}
	if unexplained && len(failed) == 0 {
		fmt.Fprintln(out, "go test failed without a failing test")
		return report{}
	}
	return report{failed: failed, sound: true}
}

// timed is a test with its time, its subtests included.
type timed struct {
	name    string
	seconds float64
}

// slowest are the tests that someone who wants a shorter run looks at first: at
// most 20, of more than 20 s each.
func slowest(ended []timed) []timed {
	ended = slices.DeleteFunc(ended, func(t timed) bool { return t.seconds < 20 })
	slices.SortStableFunc(ended, func(a, b timed) int { return cmp.Compare(b.seconds, a.seconds) })
	return ended[:min(len(ended), 20)]
}

// reason is what a skipped test said, without the frame around it.
func reason(output []string) string {
	var said []string
	for _, line := range output {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "=== ") && !strings.HasPrefix(line, "--- ") {
			said = append(said, line)
		}
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}
