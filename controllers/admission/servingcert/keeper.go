package servingcert

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	admissionregistration "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// every is how often the Secret is looked at.
const every = 30 * time.Second

// again is how soon it is looked at after a failure, or a step of several.
const again = time.Second

// Keeper keeps the certificates. It is a Runnable of every replica. All fields but
// the last two are required.
type Keeper struct {
	// Client reads from the API server and writes to it.
	Client client.Client
	// Secret is where everything is kept; it must be there, empty or not.
	Secret client.ObjectKey
	// Configurations are the names of the webhook configurations: there must be a
	// validating one of the name, and there may be a mutating one.
	Validating, Mutating string
	Log                  logr.Logger
	Now                  func() time.Time
	// Lives are DefaultLives when unset.
	Lives Lives
	// Every is 30 s when unset.
	Every time.Duration

	current atomic.Pointer[tls.Certificate]
}

// NeedLeaderElection says that every replica runs it.
func (k *Keeper) NeedLeaderElection() bool { return false }

// Certificate is what is served now; an error before the first one is there.
func (k *Keeper) Certificate(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if c := k.current.Load(); c != nil {
		return c, nil
	}
	return nil, errors.New("there is no serving certificate yet")
}

// Start keeps the certificates until ctx ends.
func (k *Keeper) Start(ctx context.Context) error {
	if k.Lives == (Lives{}) {
		k.Lives = DefaultLives
	}
	if k.Every == 0 {
		k.Every = every
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	last := ""
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		changed, err := k.step(ctx)
		switch {
		case apierrors.IsConflict(err) || changed:
			timer.Reset(min(again, k.Every))
		case err != nil:
			// Told once: without it, objects are let in and judged later.
			if text := err.Error(); text != last && ctx.Err() == nil {
				last = text
				k.Log.Error(err, "the admission webhook has no certificate that the API server trusts")
			}
			timer.Reset(min(again, k.Every))
		default:
			last = ""
			timer.Reset(k.Every)
		}
	}
}

// configuration is a webhook configuration of either kind.
type configuration struct {
	object  client.Object
	clients []admissionregistration.WebhookClientConfig
}

// step looks once, and does what is to be done next. changed says that there may
// be more.
func (k *Keeper) step(ctx context.Context) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	secret := &corev1.Secret{}
	if err := k.Client.Get(ctx, k.Secret, secret); err != nil {
		return false, fmt.Errorf("get Secret %s of the webhook's certificates: %w", k.Secret, err)
	}
	configurations, err := k.configurations(ctx)
	if err != nil {
		return false, err
	}
	in := Input{Data: secret.Data, Now: k.Now(), Lives: k.Lives}
	for _, c := range configurations {
		for i := range c.clients {
			host, err := hostOf(&c.clients[i])
			if err != nil {
				return false, fmt.Errorf("%s: %w", c.object.GetName(), err)
			}
			if !slices.Contains(in.Hosts, host) {
				in.Hosts = append(in.Hosts, host)
			}
			in.Told = append(in.Told, c.clients[i].CABundle)
		}
	}
	next, err := decide(in)
	if err != nil {
		return false, err
	}
	if next != nil {
		secret.Data = next
		if err := k.Client.Update(ctx, secret); err != nil {
			return false, fmt.Errorf("update Secret %s: %w", k.Secret, err)
		}
		k.Log.Info("certificates of the admission webhook are new", "hosts", in.Hosts)
		changed = true
	}
	pair, err := tls.X509KeyPair(secret.Data[certKey], secret.Data[privateKey])
	if err != nil {
		return changed, fmt.Errorf("read serving certificate: %w", err)
	}
	k.current.Store(&pair)
	for _, c := range configurations {
		told, err := k.tell(ctx, c, secret.Data[bundleKey])
		if err != nil {
			return changed, err
		}
		changed = changed || told
	}
	return changed, nil
}

func (k *Keeper) configurations(ctx context.Context) ([]configuration, error) {
	v := &admissionregistration.ValidatingWebhookConfiguration{}
	if err := k.Client.Get(ctx, client.ObjectKey{Name: k.Validating}, v); err != nil {
		return nil, fmt.Errorf("get ValidatingWebhookConfiguration %s: %w", k.Validating, err)
	}
	one := configuration{object: v}
	for i := range v.Webhooks {
		one.clients = append(one.clients, v.Webhooks[i].ClientConfig)
	}
	out := []configuration{one}
	if k.Mutating == "" {
		return out, nil
	}
	m := &admissionregistration.MutatingWebhookConfiguration{}
	if err := k.Client.Get(ctx, client.ObjectKey{Name: k.Mutating}, m); err != nil {
		return nil, fmt.Errorf("get MutatingWebhookConfiguration %s: %w", k.Mutating, err)
	}
	one = configuration{object: m}
	for i := range m.Webhooks {
		one.clients = append(one.clients, m.Webhooks[i].ClientConfig)
	}
	return append(out, one), nil
}

// hostOf is the name by which the API server calls a webhook.
func hostOf(c *admissionregistration.WebhookClientConfig) (string, error) {
	if s := c.Service; s != nil {
		return s.Name + "." + s.Namespace + ".svc", nil
	}
	if c.URL == nil {
		return "", errors.New("a webhook has neither url nor service")
	}
	u, err := url.Parse(*c.URL)
	if err != nil {
		return "", fmt.Errorf("parse url of webhook: %w", err)
	}
	return strings.ToLower(u.Hostname()), nil
}

// tell puts the bundle into a configuration that lacks it. The patch is bound to
// the version that was read.
func (k *Keeper) tell(ctx context.Context, c configuration, bundle []byte) (bool, error) {
	type operation struct {
		Op    string `json:"op"`
		Path  string `json:"path"`
		Value any    `json:"value"`
	}
	patch := []operation{{"test", "/metadata/resourceVersion", c.object.GetResourceVersion()}}
	for i := range c.clients {
		if !bytes.Equal(c.clients[i].CABundle, bundle) {
			patch = append(patch, operation{"add", fmt.Sprintf("/webhooks/%d/clientConfig/caBundle", i), bundle})
		}
	}
	if len(patch) == 1 {
		return false, nil
	}
	raw, err := json.Marshal(patch)
	if err != nil {
		return false, fmt.Errorf("write patch: %w", err)
	}
	if err := k.Client.Patch(ctx, c.object, client.RawPatch(types.JSONPatchType, raw), client.FieldOwner("isthmus-admission")); err != nil {
		return false, fmt.Errorf("patch webhook configuration %s: %w", c.object.GetName(), err)
	}
	return true, nil
}
