package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

func write(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o700), os.WriteFile(name, []byte(text), 0o600), os.Chmod(name, mode)); err != nil {
		t.Fatal(err)
	}
	return name
}

// Keys and certificates come from where the BatchCluster says, for the user who
// logs in, and mistakes name the field.
func TestLoginSecrets(t *testing.T) {
	dir := t.TempDir()
	key := write(t, filepath.Join(dir, "id"), "key", 0o600)
	cert := write(t, filepath.Join(dir, "id-cert.pub"), "cert", 0o644)
	write(t, filepath.Join(dir, "users", "alice"), "alice's", 0o400)
	write(t, filepath.Join(dir, "users", "alice-cert.pub"), "alice's cert", 0o644)
	write(t, filepath.Join(dir, "users", "bob"), "bob's", 0o440) // as a mounted Secret is
	client := fake.NewClientset(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "site", Name: "ssh"},
		Data: map[string][]byte{
			"ssh-privatekey": []byte("everybody's"), "alice": []byte("alice's"), "alice-cert.pub": []byte("alice's cert"),
			"known_hosts": []byte("host ssh-ed25519 AAAA"), "other": []byte("another"),
		},
	})
	ref := func(key string) *hpcv1alpha1.KeySelector {
		return &hpcv1alpha1.KeySelector{Namespace: "site", Name: "ssh", Key: key}
	}
	for name, tc := range map[string]struct {
		spec              hpcv1alpha1.SSHConnection
		user              string
		key, cert, failed string
	}{
		"file":                 {hpcv1alpha1.SSHConnection{KeyFile: key}, "alice", "key", "", ""},
		"file and certificate": {hpcv1alpha1.SSHConnection{KeyFile: key, CertificateFile: cert}, "alice", "key", "cert", ""},
		"no certificate":       {hpcv1alpha1.SSHConnection{KeyFile: key, CertificateFile: cert + "x"}, "alice", "", "", "certificateFile"},
		"directory, alice":     {hpcv1alpha1.SSHConnection{KeyFile: filepath.Join(dir, "users")}, "alice", "alice's", "alice's cert", ""},
		"directory, bob":       {hpcv1alpha1.SSHConnection{KeyFile: filepath.Join(dir, "users")}, "bob", "bob's", "", ""},
		"directory, eve":       {hpcv1alpha1.SSHConnection{KeyFile: filepath.Join(dir, "users")}, "eve", "", "", "keyFile"},
		"open to all":          {hpcv1alpha1.SSHConnection{KeyFile: write(t, filepath.Join(dir, "open"), "k", 0o644)}, "alice", "", "", "make it 0600"},
		"group may write":      {hpcv1alpha1.SSHConnection{KeyFile: write(t, filepath.Join(dir, "group"), "k", 0o660)}, "alice", "", "", "keyFile"},
		"secret, alice":        {hpcv1alpha1.SSHConnection{KeySecretRef: ref("")}, "alice", "alice's", "alice's cert", ""},
		"secret, bob":          {hpcv1alpha1.SSHConnection{KeySecretRef: ref("")}, "bob", "everybody's", "", ""},
		"secret, named key":    {hpcv1alpha1.SSHConnection{KeySecretRef: ref("other")}, "bob", "another", "", ""},
		"secret without it":    {hpcv1alpha1.SSHConnection{KeySecretRef: ref("none")}, "bob", "", "", "keySecretRef"},
		"nothing":              {hpcv1alpha1.SSHConnection{}, "bob", "", "", "keyFile"},
	} {
		got, err := loginSecrets{secrets: secrets{client}, spec: &tc.spec}.credentials(t.Context(), tc.user)
		switch {
		case tc.failed != "" && (err == nil || !strings.Contains(err.Error(), tc.failed) || !strings.Contains(err.Error(), "spec.connection.ssh.")):
			t.Errorf("%s: %v, want it to name %s", name, err, tc.failed)
		case tc.failed == "" && (err != nil || string(got.Key) != tc.key || string(got.Certificate) != tc.cert):
			t.Errorf("%s: key %q, certificate %q, %v", name, got.Key, got.Certificate, err)
		}
	}
	for name, tc := range map[string]struct {
		spec   hpcv1alpha1.SSHConnection
		failed string
	}{
		"text":           {hpcv1alpha1.SSHConnection{KnownHosts: "host ssh-ed25519 AAAA"}, ""},
		"file":           {hpcv1alpha1.SSHConnection{KnownHostsFile: write(t, filepath.Join(dir, "known"), "host ssh-ed25519 AAAA", 0o644)}, ""},
		"secret":         {hpcv1alpha1.SSHConnection{KnownHostsSecretRef: ref("")}, ""},
		"writable file":  {hpcv1alpha1.SSHConnection{KnownHostsFile: write(t, filepath.Join(dir, "known2"), "x", 0o666)}, "knownHostsFile"},
		"missing secret": {hpcv1alpha1.SSHConnection{KnownHostsSecretRef: &hpcv1alpha1.KeySelector{Namespace: "site", Name: "none"}}, "knownHostsSecretRef"},
		"nothing":        {hpcv1alpha1.SSHConnection{}, "knownHosts"},
	} {
		got, err := loginSecrets{secrets: secrets{client}, spec: &tc.spec}.knownHosts(t.Context())
		switch {
		case tc.failed != "" && (err == nil || !strings.Contains(err.Error(), "spec.connection.ssh."+tc.failed)):
			t.Errorf("known hosts, %s: %v, want it to name %s", name, err, tc.failed)
		case tc.failed == "" && (err != nil || string(got) != "host ssh-ed25519 AAAA"):
			t.Errorf("known hosts, %s: %q, %v", name, got, err)
		}
	}
}
