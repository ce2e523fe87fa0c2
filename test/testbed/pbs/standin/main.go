// Command standin plays the part of OpenPBS, or of Torque, on one machine: no
// distribution packages either, so tests have nothing real to run. It is a
// stand-in and proves nothing about PBS by itself. What it says and how it ends
// is taken from outputs recorded on a real OpenPBS 23.06.06 (see the tests
// beside it) and, for Torque, from that system's manual; what was not recorded
// is a guess and marked so.
//
// What is real: jobs run as their users, in sessions of their own, with PBS's
// environment, node file, signals, time limits and exit codes. What is not: the
// hosts are pretended, all of them this machine; nothing limits memory or CPUs;
// there is no hook and no cgroup; the server forgets all when it ends.
//
// It is one program under many names: as "standin serve" the server with its
// scheduler and all hosts' daemons, and as qsub, qstat and so on the commands.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// request is what a command sends: it thinks as little as it can.
type request struct {
	Name  string            `json:"name"` // of the command
	Args  []string          `json:"args"`
	Env   map[string]string `json:"env"`
	Dir   string            `json:"dir"`
	Input []byte            `json:"input,omitempty"` // the script of qsub
	files []*os.File        // standard output and error of pbs_tmrsh
	uid   uint32            // as the kernel tells it
	user  string
}

// reply is what the command prints and ends with.
type reply struct {
	Out  string `json:"out"`
	Err  string `json:"err"`
	Code int    `json:"code"`
}

func main() {
	name := filepath.Base(os.Args[0])
	if len(os.Args) == 3 && name == "standin" && os.Args[1] == "serve" {
		if err := serve(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, "standin:", err)
			os.Exit(1)
		}
		return
	}
	// The commands lie in DIR/bin, the server's socket in DIR.
	self, err := os.Executable()
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		os.Exit(1)
	}
	os.Exit(command(filepath.Dir(filepath.Dir(self)), name, os.Args[1:]))
}

// command asks the server and prints its reply.
func command(dir, name string, args []string) int {
	r := request{Name: name, Args: args, Env: map[string]string{}}
	for _, kv := range os.Environ() {
		k, v, _ := strings.Cut(kv, "=")
		r.Env[k] = v
	}
	r.Dir, _ = os.Getwd() // one that is gone has no name
	socket := filepath.Join(dir, "socket")
	if name == "standin" { // the tests' own door, open also when the server is "gone"
		socket = filepath.Join(dir, "control")
	}
	if name == "qsub" {
		input, complaint := script(args)
		if complaint != "" {
			fmt.Fprintln(os.Stderr, complaint)
			return 1
		}
		r.Input = input
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		complaint, code := refusedBy(name, serverName(dir))
		fmt.Fprint(os.Stderr, complaint)
		return code
	}
	defer func() { _ = conn.Close() }() // all has been said
	text, err := json.Marshal(r)
	if err != nil {
		fmt.Fprintln(os.Stderr, name+":", err)
		return 1
	}
	rights := unix.UnixRights(1, 2)
	if _, _, err = conn.WriteMsgUnix(text[:1], rights, nil); err == nil {
		_, err = conn.Write(text[1:])
	}
	if err == nil {
		err = conn.CloseWrite()
	}
	var answer reply
	if err == nil {
		err = json.NewDecoder(conn).Decode(&answer)
	}
	if err != nil {
		// Not recorded: what a command says when the server goes away meanwhile.
		fmt.Fprintf(os.Stderr, "%s: End of File\n", name)
		return 1
	}
	// A writer that is gone is the caller's affair.
	_, _ = io.WriteString(os.Stdout, answer.Out)
	_, _ = io.WriteString(os.Stderr, answer.Err)
	return answer.Code
}

// script reads the file that qsub's last argument names, or standard input.
func script(args []string) ([]byte, string) {
	_, rest := options(args, qsubFlags)
	if len(rest) == 0 {
		if err := awaitSign(os.Getenv("STANDIN_QSUB_AWAITS")); err != nil {
			return nil, "qsub: " + err.Error()
		}
		text, err := io.ReadAll(os.Stdin)
		if err != nil {
			return nil, "qsub: " + err.Error()
		}
		return text, ""
	}
	text, err := os.ReadFile(rest[0])
	if err != nil {
		return nil, "qsub: script file:: No such file or directory"
	}
	return text, ""
}

// awaitSign is for tests that do something between the start of qsub and its reading: it
// makes FILE.awaited and returns once FILE is there. "" is no file to wait for.
func awaitSign(file string) error {
	if file == "" {
		return nil
	}
	if err := os.WriteFile(file+".awaited", nil, 0o600); err != nil {
		return err
	}
	poll := time.NewTicker(10 * time.Millisecond)
	defer poll.Stop()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); <-poll.C {
		if _, err := os.Stat(file); err == nil {
			return nil
		}
	}
	return fmt.Errorf("nobody made %s", file)
}

// refusedBy gives what each command says when nobody listens.
func refusedBy(name, server string) (complaint string, code int) {
	switch name {
	case "qstat":
		return "Connection refused\nqstat: cannot connect to server " + server + " (errno=15010)\n", 255
	case "pbsnodes":
		return "Connection refused\npbsnodes: cannot connect to server " + server + ", error=15010\n", 1
	case "qdel":
		return "Connection refused\nCouldn't connect to cluster: " + server + "\n", 162
	}
	return "Connection refused\n" + name + ": cannot connect to server " + server + " (errno=15010)\n", 162
}

// serverName reads the name that the configuration gives, "pbs" without one.
func serverName(dir string) string {
	text, err := os.ReadFile(filepath.Join(dir, "config.json"))
	var c config
	if err != nil || json.Unmarshal(text, &c) != nil || c.Name == "" {
		return "pbs"
	}
	return c.Name
}

// serve runs the server until it is told to stop.
func serve(dir string) error {
	s, err := newServer(dir)
	if err != nil {
		return err
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	control, err := s.listen("control")
	if err != nil {
		return err
	}
	defer func() { _ = control.Close() }() // the program ends
	if err := s.open(); err != nil {
		return err
	}
	<-stop
	s.end()
	return nil
}

// listen opens a socket that every user may connect to.
func (s *server) listen(name string) (*net.UnixListener, error) {
	path := filepath.Join(s.dir, name)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o666); err != nil { //nolint:gosec // commands of all users connect to it
		return nil, errors.Join(err, l.Close())
	}
	go func() {
		for {
			conn, err := l.AcceptUnix()
			if err != nil {
				return // closed
			}
			go s.answer(conn)
		}
	}()
	return l, nil
}

// maxRequest bounds a request, in bytes.
const maxRequest = 16 << 20

// answer serves one command.
func (s *server) answer(conn *net.UnixConn) {
	defer func() { _ = conn.Close() }() // all has been said
	r, err := receive(conn)
	if err != nil {
		fmt.Fprintln(os.Stderr, "receive:", err)
		return
	}
	defer func() {
		for _, f := range r.files {
			f.Close()
		}
	}()
	answer := s.do(r)
	if s.loses(r.Name) {
		return
	}
	if err := json.NewEncoder(conn).Encode(answer); err != nil {
		fmt.Fprintln(os.Stderr, "reply:", err)
	}
}

func receive(conn *net.UnixConn) (*request, error) {
	first, oob := make([]byte, 1), make([]byte, unix.CmsgSpace(4*4))
	n, oobn, _, _, err := conn.ReadMsgUnix(first, oob)
	if err != nil {
		return nil, err
	}
	r := &request{}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		return nil, err
	}
	for i := range messages {
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return nil, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			r.files = append(r.files, os.NewFile(uintptr(fd), "passed"))
		}
	}
	rest, err := io.ReadAll(io.LimitReader(conn, maxRequest))
	if err != nil {
		return nil, err
	}
	if err := json.NewDecoder(io.MultiReader(bytes.NewReader(first[:n]), bytes.NewReader(rest))).Decode(r); err != nil {
		return nil, err
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) { cred, credErr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); err != nil {
		return nil, err
	}
	if credErr != nil {
		return nil, credErr
	}
	r.uid = cred.Uid
	r.user = userName(cred.Uid)
	return r, nil
}
