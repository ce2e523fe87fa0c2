package provider

import (
	"cmp"
	"context"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
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

func (k *kubeObjects) Claim(ctx context.Context, namespace, name string) (*corev1.PersistentVolumeClaim, error) {
	return k.client.CoreV1().PersistentVolumeClaims(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Token binds the token to the pod's UID: the API server refuses it once the pod
// is gone. It is never of the lifetime that an API server extends to a year
// (3607 s exactly), since at most an hour is asked for.
func (k *kubeObjects) Token(ctx context.Context, pod *corev1.Pod, audience string, lifetime time.Duration) (string, time.Time, error) {
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: new(int64(lifetime / time.Second)),
		BoundObjectRef:    &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	out, err := k.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, cmp.Or(pod.Spec.ServiceAccountName, "default"), request, metav1.CreateOptions{})
	if err != nil {
		return "", time.Time{}, err
	}
	return out.Status.Token, out.Status.ExpirationTimestamp.Time, nil
}

func (k *kubeObjects) NamespaceLabels(name string) (map[string]string, bool) {
	ns, err := k.namespaces.Get(name)
	if err != nil {
		return nil, false
	}
	return ns.Labels, true
}
