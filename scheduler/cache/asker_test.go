package cache

import (
	"context"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
)

// faulty is an API server that answers a question about kinds with these errors, one
// after the other, and then with a list; the last error stays when it is to.
type faulty struct {
	discovery.DiscoveryInterface

	errs []error
	stay bool
}

func (f *faulty) ServerResourcesForGroupVersion(string) (*metav1.APIResourceList, error) {
	if len(f.errs) == 0 {
		return &metav1.APIResourceList{APIResources: []metav1.APIResource{{Name: "reservations"}}}, nil
	}
	err := f.errs[0]
	if !f.stay {
		f.errs = f.errs[1:]
	}
	return nil, err
}

// TestAnErrorIsNoAbsence: a kind is not there when the API server says so or does not
// tell; at any other error it is asked again, until there is no time left.
func TestAnErrorIsNoAbsence(t *testing.T) {
	gr := schema.GroupResource{Resource: "reservations"}
	busy, none, forbidden := apierrors.NewServiceUnavailable("starting"), apierrors.NewNotFound(gr, ""), apierrors.NewForbidden(gr, "", nil)
	for why, c := range map[string]struct {
		errs  []error
		there bool
	}{
		"at once": {nil, true}, "busy once": {[]error{busy}, true}, "none": {[]error{none}, false}, "forbidden": {[]error{forbidden}, false}, "busy, then none": {[]error{busy, none}, false},
	} {
		a := &asker{discovery: &faulty{errs: c.errs}}
		if there := a.serves(t.Context(), "hpc.isthmus.sh/v1alpha1", "reservations"); there != c.there || a.err != nil {
			t.Errorf("%s: there %t, %v; want %t", why, there, a.err, c.there)
		}
	}
	ended, end := context.WithCancel(t.Context())
	end()
	a := &asker{discovery: &faulty{errs: []error{busy}, stay: true}}
	if a.serves(ended, "hpc.isthmus.sh/v1alpha1", "reservations") || a.err == nil || !strings.Contains(a.err.Error(), "reservations of hpc.isthmus.sh/v1alpha1: starting") {
		t.Errorf("without an answer: %v", a.err)
	}
}
