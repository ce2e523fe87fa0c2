package provider

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// kubeObjects is Objects on a real API server. ConfigMaps and Secrets are read
// one by one when a gang needs them, so that the daemon needs no right to list
// or watch secrets.
type kubeObjects struct {
	client     kubernetes.Interface
	namespaces corelisters.NamespaceLister
}

var _ Objects = (*kubeObjects)(nil)

func (k *kubeObjects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	return k.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (k *kubeObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	return k.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (k *kubeObjects) NamespaceLabels(name string) (map[string]string, bool) {
	ns, err := k.namespaces.Get(name)
	if err != nil {
		return nil, false
	}
	return ns.Labels, true
}
