package sshd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
)

// Accounts that log in to the testbed's servers, by their login shell. They
// have home directories, and no password. Bash's and Tcsh's start-up files print
// a lot to both streams.
const (
	Dash = "isthmus-dash"
	Bash = "isthmus-bash"
	Tcsh = "isthmus-tcsh"
)

// sudoers lets Dash become the users that jobs run as, and nobody else.
const (
	sudoersFile = "/etc/sudoers.d/isthmus-testbed"
	sudoers     = Dash + " ALL=(" + account.Alice + "," + account.Bob + ") NOPASSWD: ALL\n"
)

type login struct{ name, shell, file, text string }

func logins() []login {
	const noise = "echo 'Welcome! It'\"'\"'s the noisy shell.'\n"
	return []login{
		{name: Dash, shell: "/bin/dash"},
		{name: Bash, shell: "/bin/bash", file: ".bashrc", text: noise + "echo 'noise on stderr' >&2\nprintf 'no newline'\n"},
		{name: Tcsh, shell: "/usr/bin/tcsh", file: ".tcshrc", text: "echo 'Welcome to tcsh'\nsh -c 'echo noise on stderr >&2'\n"},
	}
}

func software() debian.Software {
	return debian.Software{
		Programs: []string{"/usr/sbin/sshd", "/usr/bin/ssh", "/usr/bin/ssh-agent", "/usr/bin/tcsh", "/usr/bin/sudo"},
		Packages: []string{"openssh-server", "openssh-client", "tcsh", "sudo"},
	}
}

// EnsureInstalled installs the Debian packages of the servers where they are
// missing and makes the accounts. It needs root, and starts no system-wide
// service. Programs that call it at the same time wait for one another.
func EnsureInstalled(ctx context.Context, progress io.Writer) error {
	if os.Geteuid() != 0 {
		return errors.New("real sshd: this needs root")
	}
	if err := account.Ensure(ctx, progress); err != nil {
		return err
	}
	if err := software().Ensure(ctx, progress); err != nil {
		return fmt.Errorf("real sshd: %w", err)
	}
	unlock, err := checkout.Lock(ctx, filepath.Join(os.TempDir(), "isthmus-testbed-apt.lock"), progress)
	if err != nil {
		return err
	}
	defer unlock()
	for _, l := range logins() {
		if err := l.ensure(ctx, progress); err != nil {
			return err
		}
	}
	if have, err := os.ReadFile(sudoersFile); err != nil || string(have) != sudoers {
		tmp := sudoersFile + ".new" // sudo passes over names with a dot
		if err := errors.Join(os.WriteFile(tmp, []byte(sudoers), 0o440), os.Rename(tmp, sudoersFile)); err != nil {
			return fmt.Errorf("let %s use sudo: %w", Dash, err)
		}
	}
	return nil
}

func (l login) ensure(ctx context.Context, progress io.Writer) error {
	u, err := user.Lookup(l.name)
	if err != nil {
		fmt.Fprintf(progress, "making the user %s with the login shell %s\n", l.name, l.shell)
		// "*" is no password; sshd takes "!" for a locked account.
		out, err := exec.CommandContext(ctx, "useradd", "--create-home", "--shell", l.shell,
			"--password", "*", "--comment", "Isthmus testbed", l.name).CombinedOutput()
		if err != nil {
			return fmt.Errorf("make user %s: %w: %s", l.name, err, bytes.TrimSpace(out))
		}
		if u, err = user.Lookup(l.name); err != nil {
			return fmt.Errorf("make user %s: %w", l.name, err)
		}
	}
	if l.file == "" {
		return nil
	}
	file := filepath.Join(u.HomeDir, l.file)
	if have, err := os.ReadFile(file); err == nil && string(have) == l.text {
		return nil
	}
	if err := os.WriteFile(file, []byte(l.text), 0o644); err != nil {
		return fmt.Errorf("make the shell of %s noisy: %w", l.name, err)
	}
	return nil
}
