package certificate

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"testing"
	"time"

	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"
)

// TestSignerOfTheSite: requests to the signer that virtual kubelets are told are
// decided, and those to any other are somebody else's.
func TestSignerOfTheSite(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	scheme := runtime.NewScheme()
	if err := certificates.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	const own = "beta.example.com/app-serving"
	for signer, want := range map[string]int{own: 1, certificates.KubeletServingSignerName: 0} {
		a := good()
		a.csr.Name, a.csr.Spec.SignerName = "csr-1", signer
		a.sign(t, key)
		decided := 0
		c := fake.NewClientBuilder().WithScheme(scheme).WithObjects(&a.csr, a.node).WithInterceptorFuncs(interceptor.Funcs{
			SubResourceUpdate: func(_ context.Context, _ client.Client, sub string, o client.Object, _ ...client.SubResourceUpdateOption) error {
				conditions := o.(*certificates.CertificateSigningRequest).Status.Conditions
				if sub != "approval" || len(conditions) != 1 || conditions[0].Type != certificates.CertificateApproved {
					t.Errorf("signer %s: %s is written with %+v", signer, sub, conditions)
				}
				decided++
				return nil
			},
		}).Build()
		r := &Reconciler{Client: c, Live: c, Requesters: []string{vnode}, Signer: own, Now: func() time.Time { return time.Unix(1, 0) }}
		if _, err := r.Reconcile(t.Context(), ctrl.Request{NamespacedName: client.ObjectKeyFromObject(&a.csr)}); err != nil {
			t.Fatal(err)
		}
		if decided != want {
			t.Errorf("signer %s: %d decisions, want %d", signer, decided, want)
		}
	}
}
