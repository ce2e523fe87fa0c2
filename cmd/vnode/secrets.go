package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// namespaceFile tells a program in a pod its namespace.
const namespaceFile = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

// secrets reads single keys of Secrets by their names; it never lists any.
type secrets struct{ client kubernetes.Interface }

// read gives the key that ref names, or fallback where it names none. Every
// call asks the API server: a Secret is replaced while the daemon runs.
func (s secrets) read(ctx context.Context, ref hpcv1alpha1.KeySelector, fallback string) ([]byte, error) {
	namespace, key := ref.Namespace, ref.Key
	if namespace == "" {
		own, err := os.ReadFile(namespaceFile)
		if err != nil {
			return nil, fmt.Errorf("secret %s: its namespace must be given, since the daemon runs in none: %w", ref.Name, err)
		}
		namespace = strings.TrimSpace(string(own))
	}
	if key == "" {
		key = fallback
	}
	secret, err := s.client.CoreV1().Secrets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", namespace, ref.Name, err)
	}
	value, ok := secret.Data[key]
	if !ok {
		return nil, fmt.Errorf("secret %s/%s has no key %q", namespace, ref.Name, key)
	}
	return value, nil
}
