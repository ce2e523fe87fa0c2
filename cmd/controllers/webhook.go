package main

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/controllers/admission"
	"github.com/isthmus-hpc/isthmus/controllers/admission/servingcert"
)

// The names that the chart gives the Secret of the certificates and the webhook
// configurations.
const (
	webhookSecret        = "isthmus-admission"
	webhookConfiguration = "isthmus-volcano"
)

// webhookOptions are the flags of the admission webhook.
type webhookOptions struct {
	address   string
	namespace string
	defaults  bool
}

func (w *webhookOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&w.address, "webhook-bind-address", "0", `HOST:PORT of the admission webhook; "0" turns it off`)
	f.StringVar(&w.namespace, "webhook-namespace", "", "namespace of the Secret "+webhookSecret+", which holds the webhook's certificates")
	f.BoolVar(&w.defaults, "webhook-defaults", false, "the webhook also fills in what Jobs leave out: there is a MutatingWebhookConfiguration "+webhookConfiguration)
}

func (w *webhookOptions) check() error {
	if w.address == "0" {
		return nil
	}
	if _, _, err := net.SplitHostPort(w.address); err != nil {
		return fmt.Errorf("--webhook-bind-address: Invalid value: %q: must be HOST:PORT or 0: %w", w.address, err)
	}
	if w.namespace == "" {
		return errors.New("--webhook-namespace: Required value: say where the Secret " + webhookSecret + " is")
	}
	return nil
}

// add registers the webhook and the keeper of its certificates.
func (w *webhookOptions) add(mgr ctrl.Manager) error {
	if w.address == "0" {
		return nil
	}
	// Straight to the API server: what was made a moment ago counts, and no Secret
	// is watched.
	live, err := client.New(mgr.GetConfig(), client.Options{Scheme: mgr.GetScheme(), HTTPClient: mgr.GetHTTPClient()})
	if err != nil {
		return fmt.Errorf("make client of the webhook: %w", err)
	}
	log := mgr.GetLogger().WithName("admission")
	keeper := &servingcert.Keeper{
		Client: live, Secret: client.ObjectKey{Namespace: w.namespace, Name: webhookSecret},
		Validating: webhookConfiguration, Log: log, Now: time.Now,
	}
	if w.defaults {
		keeper.Mutating = webhookConfiguration
	}
	server := &admission.Server{
		Address: w.address, Validator: &admission.Validator{Live: live, Plugins: jobPlugins()}, Certificate: keeper.Certificate, Log: log,
	}
	if err := errors.Join(mgr.Add(keeper), mgr.Add(server)); err != nil {
		return fmt.Errorf("add the webhook: %w", err)
	}
	return nil
}
