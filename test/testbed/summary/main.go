// Command summary reads the output of `go test -json` and writes what a person
// wants to know: a line a package, the output of what failed, and every test
// that was skipped with its reason. It exits 1 when anything failed or nothing ran.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	if !summarize(os.Stdin, os.Stdout) {
		os.Exit(1)
	}
}

// event is one line of `go test -json`; see `go doc test2json`.
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

// summarize reports whether all that ran passed.
func summarize(in io.Reader, out io.Writer) bool {
	began := time.Now()
	output := map[string][]string{} // by package and test, until it has passed
	counts := map[string]int{}
	var skipped, failed []string
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
		switch e.Action {
		case "output", "build-output":
			if kept := output[name]; len(kept) < maxKept {
				output[name] = append(kept, e.Output)
			}
		case "build-fail":
			fmt.Fprint(out, strings.Join(output[name], ""))
			failed = append(failed, name)
		case "skip":
			if e.Test != "" {
				skipped = append(skipped, fmt.Sprintf("%s: %s", name, reason(output[name])))
			}
			delete(output, name)
		case "fail":
			fmt.Fprint(out, strings.Join(output[name], ""))
			if e.Test == "" {
				fmt.Fprintf(out, "FAIL  %-70s %6.1fs\n", e.Package, e.Elapsed)
			} else {
				failed = append(failed, name)
			}
			delete(output, name)
			counts["fail"]++
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
		return false
	}
	slices.Sort(skipped)
	fmt.Fprintf(out, "\n%d tests passed, %d failed, %d skipped, in %s\n",
		counts["pass"], len(failed), len(skipped), time.Since(began).Round(time.Second))
	for _, s := range skipped {
		fmt.Fprintln(out, "  skipped", s)
	}
	for _, f := range failed {
		fmt.Fprintln(out, "  FAILED ", f)
	}
	if counts["pass"] == 0 && len(failed) == 0 && counts["fail"] == 0 {
		fmt.Fprintln(out, "nothing ran")
		return false
	}
	return len(failed) == 0 && counts["fail"] == 0
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
