package ssh

import (
	"bytes"
	"errors"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// remote gives a command line to a login shell as sshd does, with the leader of
// a session, and what the client would send; it gives both streams.
func remote(shell, input string) (stdout, stderr []byte, err error) {
	cmd := exec.Command(shell, "-c", commandLine(""))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = []string{"PATH=" + systemPath, "HOME=/tmp"}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	if _, err := io.WriteString(in, input); err != nil {
		return nil, nil, err
	}
	err = cmd.Wait() // killed by the script's own last act
	_ = in.Close()
	return out.Bytes(), errs.Bytes(), err
}

// Any arguments, environment, directory and input come out as they went in,
// through every login shell.
func TestRoundTrip(t *testing.T) {
	var shells []string
	for _, s := range []string{"/bin/sh", "/bin/bash", "/bin/dash", "/usr/bin/tcsh", "/bin/csh"} {
		if _, err := exec.LookPath(s); err == nil {
			shells = append(shells, s)
		} else {
			t.Logf("SKIP: no %s here", s)
		}
	}
	if len(shells) == 0 {
		t.Fatal("no shell at all")
	}
	text := rapid.Custom(func(t *rapid.T) string {
		if rapid.Bool().Draw(t, "evil") {
			return rapid.SampledFrom([]string{
				"$(id)", "`id`", "';id;'", `"`, `\`, `\\`, `\0101`, `\c`, "\n", "a\n", "\r", "!", "!!", "!$", "%s%n", "*", "?", "[a]", "~root", "{a,b}", "$HOME", "${IFS}",
				"&", "|", ";", "<", ">", "#", "--", "-n", " ", "\t", "", "=", "\x7f", "\x80", "\x81\x82\x83\x84\x85\x86\x87\x88", "\xff", "ä", "isthmus-x", "\036",
			}).Draw(t, "text")
		}
		b := rapid.SliceOfN(rapid.ByteRange(1, 255), 0, 40).Draw(t, "bytes")
		return string(b)
	})
	rapid.Check(t, func(t *rapid.T) {
		shell := rapid.SampledFrom(shells).Draw(t, "shell")
		args := rapid.SliceOfN(text, 0, 6).Draw(t, "args")
		value := text.Draw(t, "value")
		exit := rapid.IntRange(0, 255).Draw(t, "exit")
		c := transport.Command{
			Argv: append([]string{"/bin/sh", "-c", `printf '%s\0' "$V" "$@"; cat; exit ` + strconv.Itoa(exit), "sh"}, args...),
			Env:  []string{"V=" + value},
		}
		input := ""
		if rapid.Bool().Draw(t, "stdin") {
			c.Stdin = strings.NewReader("")
			for _, chunk := range rapid.SliceOfN(text, 0, 4).Draw(t, "chunks") {
				input += chunk
			}
		}
		if err := check(c); err != nil {
			t.Fatalf("%q is refused: %v", c.Argv, err)
		}
		head, err := encode(c, "somebody", false)
		if err != nil {
			t.Fatal(err)
		}
		const marker = "isthmus-0123456789abcdef"
		sent := marker + "\n" + head
		if c.Stdin != nil {
			if input != "" {
				sent += strconv.Itoa(len(input)) + "\n" + input
			}
			sent += "0\n"
		}
		stdout, stderr, err := remote(shell, sent)
		var killed *exec.ExitError
		if !errors.As(err, &killed) || killed.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
			t.Fatalf("%s ends with %v: %q %q", shell, err, stdout, stderr)
		}
		var got bytes.Buffer
		s := scanner{mark: []byte("\036" + marker), sink: &got, started: func(string) {}}
		if err := s.scan(bytes.NewReader(stdout)); err != nil || s.finished != frameEnd || s.text != strconv.Itoa(exit) {
			t.Fatalf("%s: %v, frame %q %q in %q", shell, err, s.finished, s.text, stdout)
		}
		want := value + "\x00" + strings.Join(append(args, ""), "\x00") + input
		if got.String() != want {
			t.Fatalf("%s: got %q, want %q", shell, got.String(), want)
		}
		e := scanner{mark: s.mark, sink: io.Discard, started: func(string) {}}
		if err := e.scan(bytes.NewReader(stderr)); err != nil || e.finished != frameEnd {
			t.Fatalf("%s: standard error %q, %v", shell, stderr, err)
		}
	})
}

// A header that is cut short anywhere starts nothing.
func TestCutHeaderStartsNothing(t *testing.T) {
	c := transport.Command{Argv: []string{"/bin/sh", "-c", "echo ran"}, Env: []string{"A=1"}}
	head, err := encode(c, "somebody", false)
	if err != nil {
		t.Fatal(err)
	}
	whole := "isthmus-0123\n" + head
	for n := range len(whole) - 1 {
		cmd := exec.Command("/bin/dash", "-c", commandLine(""))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		cmd.Stdin = strings.NewReader(whole[:n])
		out, err := cmd.CombinedOutput()
		if err == nil || bytes.Contains(out, []byte("ran")) || bytes.Contains(out, []byte("0123S")) {
			t.Fatalf("%d of %d bytes: %q, %v", n, len(whole), out, err)
		}
	}
}

// Frames are found however the stream is cut into pieces, and nothing of the
// output is lost, changed or taken for a frame.
func TestScannerFindsFrames(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mark := "\036isthmus-" + rapid.StringMatching(`[0-9a-f]{32}`).Draw(t, "marker")
		// Bits of the marker are the hardest output.
		bits := rapid.SliceOf(rapid.OneOf(
			rapid.Custom(func(t *rapid.T) string { return mark[:rapid.IntRange(0, len(mark)-1).Draw(t, "n")] }),
			rapid.Custom(func(t *rapid.T) string { return string(rapid.SliceOf(rapid.Byte()).Draw(t, "bytes")) }),
		))
		noise, body := strings.Join(bits.Draw(t, "noise"), ""), strings.Join(bits.Draw(t, "body"), "")
		if strings.Contains(noise, mark) || strings.Contains(body, mark) {
			t.Skip("the marker is random and secret")
		}
		stream := noise + mark + "S77\n" + body + mark + "E3\n" + "what comes after"
		var got bytes.Buffer
		group := ""
		s := scanner{mark: []byte(mark), sink: &got, started: func(text string) { group = text }}
		var r io.Reader = strings.NewReader(stream)
		if rapid.Bool().Draw(t, "by bytes") {
			r = iotest.OneByteReader(r)
		}
		if err := s.scan(r); err != nil || s.finished != frameEnd || s.text != "3" || group != "77" || got.String() != body {
			t.Fatalf("%v, frame %q %q, group %q, got %q, want %q", err, s.finished, s.text, group, got.String(), body)
		}
		// Without the last frame the end is not made up.
		cut := rapid.IntRange(0, len(noise)+len(mark)+4+len(body)+len(mark)+2).Draw(t, "cut")
		s = scanner{mark: []byte(mark), sink: io.Discard, started: func(string) {}}
		if err := s.scan(strings.NewReader(stream[:cut])); err == nil && s.finished != 0 {
			t.Fatalf("a stream cut at %d has an end: %q %q", cut, s.finished, s.text)
		}
	})
}
