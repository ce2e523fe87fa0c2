package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
)

func restCluster(r hpcv1alpha1.RESTConnection) *hpcv1alpha1.BatchCluster {
	c := &hpcv1alpha1.BatchCluster{}
	c.Spec.Type = "slurm"
	c.Spec.Connection = hpcv1alpha1.Connection{Type: "rest", REST: &r}
	c.Spec.Accounts = []hpcv1alpha1.Account{{User: "alice"}}
	return c
}

// A mistake that only shows when the connection is made names its field.
func TestRESTMistakesNameTheirField(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	for want, r := range map[string]hpcv1alpha1.RESTConnection{
		"spec.connection.rest.url: ":           {URL: "http://cluster.example:6820", JWTKeyFile: key},
		"spec.connection.rest.caFile: ":        {URL: "https://cluster.example:6820", CAFile: key, JWTKeyFile: key},
		"spec.connection.rest.tokens: ":        {URL: "https://cluster.example:6820"},
		"spec.connection.rest.tokenLifetime: ": {URL: "unix:///run/s", JWTKeyFile: key, TokenLifetime: &metav1.Duration{Duration: 2 * time.Hour}},
	} {
		_, err := systems("", "", secrets{})["slurm"](restCluster(r), nil)
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%+v: %v, want %s…", r, err, want)
		}
	}
	if _, err := systems("", "", secrets{})["slurm"](restCluster(hpcv1alpha1.RESTConnection{URL: "unix:///run/s", JWTKeyFile: key}), nil); err != nil {
		t.Error(err) // the key is read when a token is needed
	}
}

func TestRESTTokensFromSecrets(t *testing.T) {
	s := secrets{fake.NewClientset(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "isthmus", Name: "slurm"},
		Data:       map[string][]byte{"jwt_hs256.key": []byte(strings.Repeat("k", 32)), "alice": []byte("a.b.c\n"), "all": []byte("d.e.f")},
	})}
	ref := func(key string) *hpcv1alpha1.KeySelector {
		return &hpcv1alpha1.KeySelector{Namespace: "isthmus", Name: "slurm", Key: key}
	}
	token := func(r hpcv1alpha1.RESTConnection, user string) (string, error) {
		t.Helper()
		tokens, err := restTokens(r, s)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tokens.Token(context.Background(), user, time.Unix(1000, 0))
		return got.Text, err
	}
	for want, r := range map[string]hpcv1alpha1.RESTConnection{
		"a.b.c": {TokenSecretRef: ref("")},
		"d.e.f": {TokenSecretRef: ref("all")},
	} {
		if got, err := token(r, "alice"); got != want || err != nil {
			t.Errorf("got %q, %v; want %q", got, err, want)
		}
	}
	if got, err := token(hpcv1alpha1.RESTConnection{JWTKeySecretRef: ref("")}, "bob"); err != nil || strings.Count(got, ".") != 2 {
		t.Errorf("from the key: %q, %v", got, err)
	}
	for what, r := range map[string]hpcv1alpha1.RESTConnection{
		`no key "bob"`: {TokenSecretRef: ref("")},
		"not found":    {TokenSecretRef: &hpcv1alpha1.KeySelector{Namespace: "isthmus", Name: "none"}},
	} {
		if _, err := token(r, "bob"); err == nil || !strings.Contains(err.Error(), what) {
			t.Errorf("got %v, want an error that says %s", err, what)
		}
	}
	if _, err := os.Stat(namespaceFile); err != nil {
		r := hpcv1alpha1.RESTConnection{TokenSecretRef: &hpcv1alpha1.KeySelector{Name: "slurm"}}
		if _, err := token(r, "alice"); err == nil || !strings.Contains(err.Error(), "namespace must be given") {
			t.Errorf("outside of a pod: %v", err)
		}
	}
}

// exec needs srun, which slurmrestd cannot start: only a login node can.
func TestRESTEnters(t *testing.T) {
	c := restCluster(hpcv1alpha1.RESTConnection{URL: "unix:///run/s", JWTKeyFile: "/k"})
	for _, login := range []bool{false, true} {
		if login {
			c.Spec.Connection.SSH = &hpcv1alpha1.SSHConnection{}
		}
		s, err := slurmrestSystem(c, local.New(), secrets{})
		if err != nil {
			t.Fatal(err)
		}
		enterer, ok := s.Backend.(backends.Enterer)
		if ok != login || s.Backend.Capabilities().Enter != login || !s.Backend.Capabilities().Heterogeneous {
			t.Fatalf("login node %t: enters %t, capabilities %+v", login, ok, s.Backend.Capabilities())
		}
		if !login {
			continue
		}
		entry, err := enterer.Enter(backends.JobRef{ID: "7", Key: "k", User: "alice"}, "n1", []string{"true"})
		if err != nil || len(entry.Argv) == 0 || entry.Argv[0] != "srun" || entry.User != "alice" {
			t.Errorf("entry %+v, %v", entry, err)
		}
	}
}
