// Package ssh is the job plugin "ssh": it lets the pods of a job reach each other
// by ssh without a password. The Secret <job>-ssh holds a key pair of the job and
// a host key; the clients know the host key and accept no other, unlike with
// Volcano, whose clients accept any.
package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"encoding/pem"
	"errors"
	"fmt"
	"path"
	"strings"

	"golang.org/x/crypto/ssh"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/address"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
)

// Name is the plugin's key in spec.plugins.
const Name = "ssh"

// The files of the Secret. The first four are Volcano's.
const (
	privateKey     = "id_rsa"
	publicKey      = "id_rsa.pub"
	authorizedKeys = "authorized_keys"
	clientConfig   = "config"
	knownHosts     = "known_hosts"
	hostKey        = "ssh_host_ed25519_key"
)

// serverDir is where sshd looks for its host keys.
const serverDir = "/etc/ssh"

// keyBits is the size of the job's key in bits.
const keyBits = 3072

type plugin struct {
	dir             string
	private, public string
	port            int
	// found is the Secret that was there already, nil if it is the plugin's own.
	found *corev1.Secret
}

// Factory makes the plugin. Its arguments are --ssh-key-file-path (/root/.ssh),
// where the files are mounted, --ssh-private-key and --ssh-public-key, a key pair
// to use instead of a new one, and --ssh-port (22).
func Factory() plugins.Factory {
	return plugins.Factory{Name: Name, New: func(args []string) (plugins.Plugin, error) {
		p := &plugin{}
		flags := plugins.Flags(Name)
		flags.StringVar(&p.dir, "ssh-key-file-path", "/root/.ssh", "")
		flags.StringVar(&p.private, "ssh-private-key", "", "")
		flags.StringVar(&p.public, "ssh-public-key", "", "")
		flags.IntVar(&p.port, "ssh-port", 22, "")
		if err := plugins.Parse(flags, args); err != nil {
			return nil, err
		}
		switch {
		case !path.IsAbs(p.dir) || path.Clean(p.dir) != p.dir || p.dir == "/":
			return nil, fmt.Errorf("--ssh-key-file-path=%q: must be the absolute path of a directory", p.dir)
		case (p.private == "") != (p.public == ""):
			return nil, errors.New("--ssh-private-key and --ssh-public-key go together")
		case p.private != "":
			if _, err := ssh.ParseRawPrivateKey([]byte(p.private)); err != nil {
				return nil, errors.New("--ssh-private-key: is not a private key without a passphrase") // the key itself must not be shown
			}
			if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(p.public)); err != nil {
				return nil, fmt.Errorf("--ssh-public-key: %w", err)
			}
		}
		return p, plugins.CheckPorts(map[string]int{"ssh-port": p.port})
	}}
}

func (*plugin) Validate(*batch.Job) error { return nil }

func secretName(job *batch.Job) string { return job.Name + "-ssh" }

// Objects is the Secret, without its keys.
func (*plugin) Objects(job *batch.Job) []plugins.Object {
	return []plugins.Object{&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: secretName(job)},
		Immutable:  ptr.To(true), // pods of one job never see two keys
		Type:       corev1.SecretTypeOpaque,
	}}
}

// Complete makes the keys.
func (p *plugin) Complete(job *batch.Job, o plugins.Object) error {
	secret, ok := o.(*corev1.Secret)
	if !ok {
		return nil
	}
	private, public := p.private, p.public
	if private == "" {
		key, err := rsa.GenerateKey(rand.Reader, keyBits)
		if err != nil {
			return fmt.Errorf("make the job's key: %w", err)
		}
		if private, public, err = encode(key, key.Public(), job.Name); err != nil {
			return err
		}
	}
	_, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make the host key: %w", err)
	}
	hostPrivate, hostPublic, err := encode(host, host.Public(), "host keys of "+job.Name)
	if err != nil {
		return err
	}
	secret.Data = map[string][]byte{
		privateKey:     []byte(private),
		publicKey:      []byte(strings.TrimSpace(public) + "\n"),
		authorizedKeys: []byte(strings.TrimSpace(public) + "\n"),
		// All pods of the job have this one host key.
		knownHosts:   []byte("* " + hostPublic + "\n"),
		hostKey:      []byte(hostPrivate),
		clientConfig: []byte(p.config(job)),
	}
	return nil
}

// Found remembers which files there are: the Secret of a Job that Volcano's
// controllers began has the first four only, and stays as it is, so that all pods of
// the job have the same.
func (p *plugin) Found(o plugins.Object) {
	if secret, ok := o.(*corev1.Secret); ok {
		p.found = secret
	}
}

// has says that the Secret holds the file.
func (p *plugin) has(key string) bool {
	if p.found == nil {
		return true
	}
	_, ok := p.found.Data[key]
	return ok
}

// encode gives a private key in OpenSSH's format and the line of its public key.
func encode(private, public any, comment string) (secret, line string, err error) {
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return "", "", fmt.Errorf("encode private key: %w", err)
	}
	pub, err := ssh.NewPublicKey(public)
	if err != nil {
		return "", "", fmt.Errorf("encode public key: %w", err)
	}
	return string(pem.EncodeToMemory(block)), strings.TrimSpace(string(ssh.MarshalAuthorizedKey(pub))), nil
}

// attempts is how often, once a second, a client tries to connect: the pods of a
// job start together, and one that calls may be ready before another's sshd is.
const attempts = 60

// config is the clients' configuration: short names for the pods, however many
// there will be, and the one host key that they have.
func (p *plugin) config(job *batch.Job) string {
	var b strings.Builder
	for i := range job.Spec.Tasks {
		task := &job.Spec.Tasks[i]
		short, domain, _ := strings.Cut(address.Of(job, task, 0), ".")
		if task.Template.Spec.Hostname == "" {
			short = strings.TrimSuffix(short, "0") + "*"
		}
		// %h is the name that was asked for, see ssh_config(5).
		fmt.Fprintf(&b, "Host %s !*.*\n  HostName %%h.%s\n", short, domain)
	}
	fmt.Fprintf(&b, "Host *\n  Port %d\n  IdentityFile %s\n  UserKnownHostsFile %s\n  StrictHostKeyChecking yes\n  HostKeyAlgorithms ssh-ed25519\n  ConnectionAttempts %d\n",
		p.port, path.Join(p.dir, privateKey), path.Join(p.dir, knownHosts), attempts)
	return b.String()
}

// MutatePod mounts the files for the clients, and the host key where sshd has it. A
// file that the Secret does not hold is left out: a pod that asks for one that is
// missing never starts.
func (p *plugin) MutatePod(job *batch.Job, _ *batch.TaskSpec, _ int32, pod *corev1.Pod) {
	name := secretName(job)
	var items []corev1.KeyToPath
	for _, file := range []struct {
		key  string
		mode int32
	}{{privateKey, 0o600}, {publicKey, 0o644}, {authorizedKeys, 0o600}, {clientConfig, 0o644}, {knownHosts, 0o644}, {hostKey, 0o600}} {
		if p.has(file.key) {
			items = append(items, corev1.KeyToPath{Key: file.key, Path: file.key, Mode: ptr.To(file.mode)})
		}
	}
	pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{
		SecretName: name, DefaultMode: ptr.To[int32](0o600), Items: items,
	}}})
	mounts := []corev1.VolumeMount{{Name: name, MountPath: p.dir, ReadOnly: true}}
	if p.has(hostKey) {
		mounts = append(mounts, corev1.VolumeMount{Name: name, MountPath: path.Join(serverDir, hostKey), SubPath: hostKey, ReadOnly: true})
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			list[i].VolumeMounts = append(list[i].VolumeMounts, mounts...)
		}
	}
}
