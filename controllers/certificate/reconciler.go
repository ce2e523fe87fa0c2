package certificate

import (
	"context"
	"fmt"
	"time"

	certificates "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
)

// Name of the controller.
const Name = "certificate"

// again is how soon a request is looked at again whose node is not there yet.
const again = 3 * time.Second

// Reconciler approves or denies requests. All fields are required.
type Reconciler struct {
	Client client.Client
	// Live reads nodes without a cache: few requests need few nodes.
	Live client.Reader
	// Requesters are the users that virtual kubelets are.
	Requesters []string
	// Signer is the one that virtual kubelets ask; requests to others are left alone.
	Signer string
	Now    func() time.Time
}

// SetupWithManager registers the controller.
func (r *Reconciler) SetupWithManager(mgr ctrl.Manager) error {
	if err := ctrl.NewControllerManagedBy(mgr).Named(Name).For(&certificates.CertificateSigningRequest{}).Complete(r); err != nil {
		return fmt.Errorf("set up controller %s: %w", Name, err)
	}
	return nil
}

// Reconcile looks at one request. It may be repeated.
func (r *Reconciler) Reconcile(ctx context.Context, key ctrl.Request) (ctrl.Result, error) {
	csr := &certificates.CertificateSigningRequest{}
	if err := r.Client.Get(ctx, key.NamespacedName, csr); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	if csr.Spec.SignerName != r.Signer || decided(csr) {
		return ctrl.Result{}, nil
	}
	node, err := r.nodeOf(ctx, csr)
	if err != nil {
		return ctrl.Result{}, err
	}
	v, reason := decide(csr, node, r.Requesters)
	condition := certificates.CertificateSigningRequestCondition{
		Status: corev1.ConditionTrue, Message: reason, LastUpdateTime: metav1.NewTime(r.Now()),
	}
	switch v {
	case leave:
		return ctrl.Result{}, nil
	case wait:
		log.FromContext(ctx).V(1).Info("request waits", "request", csr.Name, "reason", reason)
		return ctrl.Result{RequeueAfter: again}, nil
	case approve:
		condition.Type, condition.Reason = certificates.CertificateApproved, "VirtualNode"
	case deny:
		condition.Type, condition.Reason = certificates.CertificateDenied, "NotAVirtualNode"
	}
	csr.Status.Conditions = append(csr.Status.Conditions, condition)
	if err := r.Client.SubResource("approval").Update(ctx, csr); err != nil {
		return ctrl.Result{}, fmt.Errorf("%s request %s: %w", condition.Type, csr.Name, err)
	}
	log.FromContext(ctx).Info("request decided", "request", csr.Name, "by", csr.Spec.Username, "verdict", condition.Type, "reason", reason)
	return ctrl.Result{}, nil
}

func (r *Reconciler) nodeOf(ctx context.Context, csr *certificates.CertificateSigningRequest) (*corev1.Node, error) {
	_, name, err := parse(csr)
	if err != nil {
		return nil, nil //nolint:nilerr,nilnil // decide says what is wrong with it, and no node is an answer
	}
	node := &corev1.Node{}
	if err := r.Live.Get(ctx, client.ObjectKey{Name: name}, node); err != nil {
		if apierrors.IsNotFound(err) || apierrors.IsInvalid(err) {
			return nil, nil //nolint:nilnil // no node is an answer
		}
		return nil, fmt.Errorf("get node %s: %w", name, err)
	}
	return node, nil
}

func decided(csr *certificates.CertificateSigningRequest) bool {
	for _, c := range csr.Status.Conditions {
		if c.Type == certificates.CertificateApproved || c.Type == certificates.CertificateDenied || c.Type == certificates.CertificateFailed {
			return true
		}
	}
	return false
}
