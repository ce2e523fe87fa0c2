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

// data gives all keys of the Secret that ref names. Every call asks the API
// server: a Secret is replaced while the daemon runs.
func (s secrets) data(ctx context.Context, ref hpcv1alpha1.KeySelector) (map[string][]byte, error) {
	namespace := ref.Namespace
	if namespace == "" {
		own, err := os.ReadFile(namespaceFile)
		if err != nil {
			return nil, fmt.Errorf("secret %s: its namespace must be given, since the daemon runs in none: %w", ref.Name, err)
		}
		namespace = strings.TrimSpace(string(own))
	}
	secret, err := s.client.CoreV1().Secrets(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read Secret %s/%s: %w", namespace, ref.Name, err)
	}
	return secret.Data, nil
}

// read gives the key that ref names, or fallback where it names none.
func (s secrets) read(ctx context.Context, ref hpcv1alpha1.KeySelector, fallback string) ([]byte, error) {
	data, err := s.data(ctx, ref)
	if err != nil {
		return nil, err
	}
	key := ref.Key
	if key == "" {
		key = fallback
	}
	value, ok := data[key]
	if !ok {
		return nil, fmt.Errorf("secret %s has no key %q", ref.Name, key)
	}
	return value, nil
}
