package dataset

import (
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/api/meta"
	ctrl "sigs.k8s.io/controller-runtime"
)

// bare is a manager of an API server that has no Datasets. It panics when it is used for
// more than to find that out.
type bare struct{ ctrl.Manager }

func (bare) GetRESTMapper() meta.RESTMapper { return meta.NewDefaultRESTMapper(nil) }
func (bare) GetLogger() logr.Logger         { return logr.Discard() }

// Where only Volcano's definitions are, the program starts without this controller.
func TestNoDatasetsAreServed(t *testing.T) {
	if err := (&Reconciler{}).SetupWithManager(t.Context(), bare{}); err != nil {
		t.Error(err)
	}
}
