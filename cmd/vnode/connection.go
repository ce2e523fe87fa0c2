package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/go-logr/logr"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/backends/transport/ssh"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/staging"
)

// connector makes the connections of BatchClusters.
type connector struct {
	secrets secrets
	// podrun is the pod runner on this host; it is uploaded where it is needed.
	podrun string
	log    logr.Logger
}

// connect is the daemon's Connect.
func (c connector) connect(_ context.Context, cluster *hpcv1alpha1.BatchCluster) (provider.Connection, error) {
	spec := cluster.Spec.Connection.SSH
	if spec == nil {
		runner := local.New()
		runner.Warn = func(text string) { c.log.Info("local: " + text) }
		return provider.Connection{Runner: runner}, nil
	}
	// What was staged for a user is found there by its digest.
	digest, err := staging.DigestOf(c.podrun)
	if err != nil {
		return provider.Connection{}, err
	}
	program := remoteProgram{directory: cluster.Spec.Staging.Directory, local: c.podrun, digest: digest}
	login := loginSecrets{secrets: c.secrets, spec: spec}
	config := ssh.Config{
		Hosts: spec.Hosts, User: spec.User, Sudo: spec.Become == "sudo", ProxyJump: spec.ProxyJump,
		Credentials: login.credentials, KnownHosts: login.knownHosts, MaxSessions: int(spec.MaxSessions),
		Warn: func(text string) { c.log.Info("ssh: " + text) },
	}
	if config.User == "" && len(cluster.Spec.Accounts) > 0 {
		config.User = cluster.Spec.Accounts[0].User // asks for lists; everybody sees those
	}
	if spec.ControlPath != "" {
		master, err := ssh.NewMaster(ssh.MasterConfig{
			ControlPath: spec.ControlPath, User: config.User, Sudo: config.Sudo, MaxSessions: config.MaxSessions,
		})
		if err != nil {
			return provider.Connection{}, fmt.Errorf("%scontrolPath: %w", atSSH, err)
		}
		program.runner = master
		return provider.Connection{Runner: master, Program: program, Close: master.Close}, nil
	}
	if spec.Keepalive != nil {
		config.Keepalive = spec.Keepalive.Duration
	}
	if spec.ConnectTimeout != nil {
		config.ConnectTimeout = spec.ConnectTimeout.Duration
	}
	runner, err := ssh.New(config)
	if err != nil {
		return provider.Connection{}, fmt.Errorf("spec.connection.ssh: %w", err)
	}
	program.runner = runner
	return provider.Connection{Runner: runner, Program: program, Close: runner.Finish}, nil
}

// installer is what both SSH runners can do.
type installer interface {
	EnsureProgram(ctx context.Context, user, root, local, digest string) (string, error)
	ForgetPrograms(user string)
}

// remoteProgram is a staging.Program: the pod runner in each user's staging root.
type remoteProgram struct {
	runner                   installer
	directory, local, digest string
}

var _ staging.Program = remoteProgram{}

// Path implements staging.Program.
func (p remoteProgram) Path(ctx context.Context, user string) (string, error) {
	root, err := staging.Root(p.directory, user)
	if err != nil {
		return "", err
	}
	return p.runner.EnsureProgram(ctx, user, root, p.local, p.digest)
}

// Forget implements staging.Program.
func (p remoteProgram) Forget(user string) { p.runner.ForgetPrograms(user) }

// loginSecrets reads what a login needs, each time anew: keys, certificates and
// known_hosts may be renewed while the daemon runs.
type loginSecrets struct {
	secrets secrets
	spec    *hpcv1alpha1.SSHConnection
}

const (
	atSSH = "spec.connection.ssh."
	// maxSecretFile bounds what is read of a file.
	maxSecretFile = 4 << 20
)

func (s loginSecrets) credentials(ctx context.Context, user string) (ssh.Credentials, error) {
	switch {
	case s.spec.KeyFile != "":
		return s.fromFiles(user)
	case s.spec.KeySecretRef != nil:
		return s.fromSecret(ctx, user)
	case s.spec.AgentSocket != "":
		return ssh.Credentials{AgentSocket: s.spec.AgentSocket}, nil
	default:
		return ssh.Credentials{}, errors.New(atSSH + "keyFile: one of keyFile, keySecretRef, agentSocket and controlPath is required")
	}
}

func (s loginSecrets) fromFiles(user string) (ssh.Credentials, error) {
	key, cert, needed := s.spec.KeyFile, s.spec.CertificateFile, true
	if info, err := os.Stat(key); err == nil && info.IsDir() {
		key = filepath.Join(key, user)
		if cert == "" {
			cert, needed = key+"-cert.pub", false
		}
	}
	var out ssh.Credentials
	var err error
	if out.Key, err = readSecret(key, true); err != nil {
		return out, fmt.Errorf("%skeyFile: %w", atSSH, err)
	}
	if cert == "" {
		return out, nil
	}
	out.Certificate, err = readSecret(cert, false)
	if errors.Is(err, os.ErrNotExist) && !needed {
		err = nil
	}
	if err != nil {
		return out, fmt.Errorf("%scertificateFile: %w", atSSH, err)
	}
	return out, nil
}

// readSecret reads a file that is not for others; group members may read it,
// since that is how a Secret is mounted for a process that is not root.
func readSecret(name string, private bool) ([]byte, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSecretFile {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes", name, maxSecretFile)
	}
	if mode := info.Mode().Perm(); private && mode&0o027 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others can read it or the group write it; make it 0600", name, mode)
	} else if mode&0o022 != 0 {
		return nil, fmt.Errorf("%s has mode %04o: others can write it; make it 0644 or stricter", name, mode)
	}
	return os.ReadFile(name)
}

func (s loginSecrets) fromSecret(ctx context.Context, user string) (ssh.Credentials, error) {
	ref := *s.spec.KeySecretRef
	data, err := s.secrets.data(ctx, ref)
	if err != nil {
		return ssh.Credentials{}, fmt.Errorf("%skeySecretRef: %w", atSSH, err)
	}
	shared := ref.Key
	if shared == "" {
		shared = "ssh-privatekey"
	}
	for _, name := range []string{user, shared} {
		if key, ok := data[name]; ok {
			return ssh.Credentials{Key: key, Certificate: data[name+"-cert.pub"]}, nil
		}
	}
	return ssh.Credentials{}, fmt.Errorf("%skeySecretRef: the Secret %s has neither the key %q nor %q", atSSH, ref.Name, user, shared)
}

func (s loginSecrets) knownHosts(ctx context.Context) ([]byte, error) {
	switch {
	case s.spec.KnownHosts != "":
		return []byte(s.spec.KnownHosts), nil
	case s.spec.KnownHostsFile != "":
		text, err := readSecret(s.spec.KnownHostsFile, false)
		if err != nil {
			return nil, fmt.Errorf("%sknownHostsFile: %w", atSSH, err)
		}
		return text, nil
	case s.spec.KnownHostsSecretRef != nil:
		text, err := s.secrets.read(ctx, *s.spec.KnownHostsSecretRef, "known_hosts")
		if err != nil {
			return nil, fmt.Errorf("%sknownHostsSecretRef: %w", atSSH, err)
		}
		return text, nil
	default:
		return nil, errors.New(atSSH + "knownHosts: one of knownHosts, knownHostsFile and knownHostsSecretRef is required")
	}
}
