package ssh

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

func newJob() *batch.Job {
	return &batch.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "j"},
		Spec: batch.JobSpec{Tasks: []batch.TaskSpec{{Name: "master", Replicas: 1}, {Name: "worker", Replicas: 3}}}}
}

// files writes the Secret as the plugin mounts it.
func files(t *testing.T, p plugins.Plugin, job *batch.Job) (dir string) {
	t.Helper()
	dir = p.(*plugin).dir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	secret := p.Objects(job)[0].(*corev1.Secret)
	if err := p.(plugins.Completer).Complete(job, secret); err != nil {
		t.Fatal(err)
	}
	for name, data := range secret.Data {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// Real clients and servers of OpenSSH: one pod reaches another by its short name,
// and none that has another host key.
func TestWithOpenSSH(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can let sshd become another user")
	}
	job := newJob()
	p, err := Factory().New([]string{"--ssh-key-file-path=" + filepath.Join(t.TempDir(), "keys")})
	if err != nil {
		t.Fatal(err)
	}
	dir := files(t, p, job)
	authorized := filepath.Join("/run", "isthmus-ssh-plugin-authorized") // sshd reads it as the user
	data, err := os.ReadFile(filepath.Join(dir, authorizedKeys))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(authorized, data, 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(authorized) })
	start := func(hostKeyFile string) string {
		server, err := sshd.Start(t.Context(), sshd.Config{HostKeys: []string{sshd.ECDSA},
			Lines: []string{"HostKey " + hostKeyFile, "AuthorizedKeysFile " + authorized}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = server.Stop() })
		_, port, err := net.SplitHostPort(server.Address)
		if err != nil {
			t.Fatal(err)
		}
		return port
	}
	client := func(host, port string) (string, error) {
		// There is no DNS here that knows the name.
		out, err := exec.CommandContext(t.Context(), "ssh", "-F", filepath.Join(dir, clientConfig), "-o", "BatchMode=yes",
			"-o", "HostName=127.0.0.1", "-p", port, "-l", sshd.Dash, host, "echo", "reached").CombinedOutput()
		return string(out), err
	}
	port := start(filepath.Join(dir, hostKey))
	for _, host := range []string{"j-worker-2", "j-master-0", "j-worker-0.j"} {
		if out, err := client(host, port); err != nil || !strings.Contains(out, "reached") {
			t.Errorf("%s: %v: %s", host, err, out)
		}
	}
	other := filepath.Join(t.TempDir(), "keys")
	q, err := Factory().New([]string{"--ssh-key-file-path=" + other})
	if err != nil {
		t.Fatal(err)
	}
	port = start(filepath.Join(files(t, q, job), hostKey))
	if out, err := client("j-worker-2", port); err == nil || !strings.Contains(out, "HOST IDENTIFICATION HAS CHANGED") {
		t.Errorf("another host key: %v: %s", err, out)
	}
	text, err := exec.CommandContext(t.Context(), "ssh", "-G", "-F", filepath.Join(dir, clientConfig), "j-worker-7").Output()
	if err != nil || !strings.Contains(string(text), "hostname j-worker-7.j\n") || !strings.Contains(string(text), "connectionattempts 60\n") {
		t.Errorf("the name of a worker that comes later, and tries until its sshd is there: %v: %s", err, text)
	}
}

func TestMounts(t *testing.T) {
	t.Parallel()
	p, err := Factory().New(nil)
	if err != nil {
		t.Fatal(err)
	}
	pod := &corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{}}, Containers: []corev1.Container{{}}}}
	p.MutatePod(newJob(), nil, 0, pod)
	for _, c := range append(pod.Spec.InitContainers, pod.Spec.Containers...) {
		if len(c.VolumeMounts) != 2 || c.VolumeMounts[0].MountPath != "/root/.ssh" || c.VolumeMounts[1].MountPath != "/etc/ssh/ssh_host_ed25519_key" {
			t.Errorf("mounts %+v", c.VolumeMounts)
		}
	}
	if s := pod.Spec.Volumes[0].Secret; s.SecretName != "j-ssh" || len(s.Items) != 6 || *s.Items[0].Mode != 0o600 {
		t.Errorf("%+v", s)
	}
}

// The port is that of the clients' configuration.
func TestPort(t *testing.T) {
	t.Parallel()
	for arg, want := range map[string]string{"--ssh-key-file-path=/root/.ssh": "\n  Port 22\n", "--ssh-port=2200": "\n  Port 2200\n"} {
		p, err := Factory().New([]string{arg})
		if err != nil {
			t.Fatal(err)
		}
		secret := p.Objects(newJob())[0].(*corev1.Secret)
		if err := p.(plugins.Completer).Complete(newJob(), secret); err != nil || !strings.Contains(string(secret.Data[clientConfig]), want) {
			t.Errorf("%s: %v, %s lacks %q", arg, err, secret.Data[clientConfig], want)
		}
	}
}

// The Secret that Volcano made has no host key: its pods do without, and ask for no
// file that is not there.
func TestSecretOfVolcano(t *testing.T) {
	t.Parallel()
	p, err := Factory().New(nil)
	if err != nil {
		t.Fatal(err)
	}
	p.(plugins.Finder).Found(&corev1.Secret{Data: map[string][]byte{privateKey: nil, publicKey: nil, authorizedKeys: nil, clientConfig: nil}})
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{}}}}
	p.MutatePod(newJob(), nil, 0, pod)
	var keys []string
	for _, item := range pod.Spec.Volumes[0].Secret.Items {
		keys = append(keys, item.Key)
	}
	if got := strings.Join(keys, " "); got != "id_rsa id_rsa.pub authorized_keys config" {
		t.Errorf("files %s", got)
	}
	if m := pod.Spec.Containers[0].VolumeMounts; len(m) != 1 || m[0].MountPath != "/root/.ssh" {
		t.Errorf("mounts %+v", m)
	}
}

func TestArguments(t *testing.T) {
	t.Parallel()
	key, err := sshd.NewKey(sshd.ED25519)
	if err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"--ssh-port=0":        {"--ssh-port=0"},
		"--ssh-key-file-path": {"--ssh-key-file-path=rel"},
		"go together":         {"--ssh-public-key=" + key.Public()},
		"--ssh-private-key":   {"--ssh-private-key=secret", "--ssh-public-key=" + key.Public()},
		"--ssh-public-key":    {"--ssh-private-key=" + string(key.PEM), "--ssh-public-key=x"},
	} {
		if _, err := Factory().New(args); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "=secret") {
			t.Errorf("%v: %v, want %q", args, err, want)
		}
	}
	p, err := Factory().New([]string{"--ssh-private-key=" + string(key.PEM), "--ssh-public-key=" + key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	secret := p.Objects(newJob())[0].(*corev1.Secret)
	if err := p.(plugins.Completer).Complete(newJob(), secret); err != nil || string(secret.Data[privateKey]) != string(key.PEM) || string(secret.Data[authorizedKeys]) != key.Public() {
		t.Errorf("a pair of the user's own is not used: %v", err)
	}
}
