package servingcert

import (
	"context"
	"fmt"
	"sync"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	typedv1 "k8s.io/client-go/kubernetes/typed/certificates/v1"
)

// patience is how long a request may wait before it is worth a word: approver
// and signer answer within seconds.
const patience = 30 * time.Second

// progress is how far the latest request of a node has come. The rotation itself
// tells that to its log alone.
type progress struct {
	now func() time.Time

	mu sync.Mutex
	// request is the name of the one that is under way, "" without one.
	request  string
	since    time.Time
	approved bool
	trouble  string // why the latest came to nothing, until one is signed
}

func (p *progress) refused(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.request, p.trouble = "", "a certificate could not be asked for: "+err.Error()
}

func (p *progress) asked(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.request, p.since, p.approved = name, p.now(), false
}

func (p *progress) look(csr *certificatesv1.CertificateSigningRequest) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if csr.Name != p.request {
		return
	}
	for _, c := range csr.Status.Conditions {
		switch c.Type {
		case certificatesv1.CertificateApproved:
			p.approved = true
		case certificatesv1.CertificateDenied:
			p.request, p.trouble = "", fmt.Sprintf("request %s was denied: %s: %s", csr.Name, c.Reason, c.Message)
			return
		case certificatesv1.CertificateFailed:
			p.request, p.trouble = "", fmt.Sprintf("request %s was approved and not signed: %s: %s", csr.Name, c.Reason, c.Message)
			return
		}
	}
	if len(csr.Status.Certificate) > 0 {
		p.request, p.trouble = "", ""
	}
}

// why says what stands between the node and a new certificate, and for how long
// it has; "" when nothing is under way. lately is false for what has just begun.
func (p *progress) why(signer string) (why string, lately bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	lately = p.now().Sub(p.since) < patience
	switch {
	case p.trouble != "":
		return p.trouble + "; it is asked for again", false
	case p.request == "":
		return "", lately
	case p.approved:
		return fmt.Sprintf("request %s is approved and waits for the signer %s", p.request, signer), lately
	default:
		return fmt.Sprintf("request %s waits for approval: `kubectl describe csr %s`; the controllers' approver decides on it", p.request, p.request), lately
	}
}

// watched is a client that shows progress the requests that pass through it.
type watched struct {
	kubernetes.Interface
	progress *progress
}

// CertificatesV1 implements kubernetes.Interface.
func (w watched) CertificatesV1() typedv1.CertificatesV1Interface {
	return watchedGroup{w.Interface.CertificatesV1(), w.progress}
}

type watchedGroup struct {
	typedv1.CertificatesV1Interface
	progress *progress
}

// CertificateSigningRequests implements typedv1.CertificatesV1Interface.
func (g watchedGroup) CertificateSigningRequests() typedv1.CertificateSigningRequestInterface {
	return watchedRequests{g.CertificatesV1Interface.CertificateSigningRequests(), g.progress}
}

type watchedRequests struct {
	typedv1.CertificateSigningRequestInterface
	progress *progress
}

// Create implements typedv1.CertificateSigningRequestInterface.
func (r watchedRequests) Create(ctx context.Context, csr *certificatesv1.CertificateSigningRequest, o metav1.CreateOptions) (*certificatesv1.CertificateSigningRequest, error) {
	out, err := r.CertificateSigningRequestInterface.Create(ctx, csr, o)
	if err != nil {
		r.progress.refused(err)
		return out, err
	}
	r.progress.asked(out.Name)
	return out, nil
}

// List implements typedv1.CertificateSigningRequestInterface.
func (r watchedRequests) List(ctx context.Context, o metav1.ListOptions) (*certificatesv1.CertificateSigningRequestList, error) {
	out, err := r.CertificateSigningRequestInterface.List(ctx, o)
	if err == nil {
		for i := range out.Items {
			r.progress.look(&out.Items[i])
		}
	}
	return out, err
}

// Watch implements typedv1.CertificateSigningRequestInterface.
func (r watchedRequests) Watch(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
	out, err := r.CertificateSigningRequestInterface.Watch(ctx, o)
	if err != nil {
		return out, err
	}
	return watch.Filter(out, func(e watch.Event) (watch.Event, bool) {
		if csr, ok := e.Object.(*certificatesv1.CertificateSigningRequest); ok {
			r.progress.look(csr)
		}
		return e, true
	}), nil
}
