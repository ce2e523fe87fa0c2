package kubeletapi

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// access decides who may ask what.
type access struct {
	authn authenticator.Request
	authz authorizer.Authorizer
	ca    authority
}

// authority is where client certificates come from; Run follows its changes.
type authority interface {
	dynamiccertificates.CAContentProvider
	Run(ctx context.Context, workers int)
}

func newAuthority(cfg Config) (authority, error) {
	const purpose = "kubelet-client-ca"
	if cfg.ClientCAFile != "" {
		return dynamiccertificates.NewDynamicCAContentFromFile(purpose, cfg.ClientCAFile)
	}
	return dynamiccertificates.NewDynamicCAFromConfigMapController(purpose, metav1.NamespaceSystem,
		"extension-apiserver-authentication", "client-ca-file", cfg.Client)
}

func newAccess(cfg Config) (*access, error) {
	ca, err := newAuthority(cfg)
	if err != nil {
		return nil, fmt.Errorf("read client authority: %w", err)
	}
	backoff := wait.Backoff{Duration: 500 * time.Millisecond, Factor: 1.5, Jitter: 0.2, Steps: 3}
	authn, _, err := authenticatorfactory.DelegatingAuthenticatorConfig{
		Anonymous:                          nil,
		TokenAccessReviewClient:            cfg.Client.AuthenticationV1(),
		TokenAccessReviewTimeout:           10 * time.Second,
		WebhookRetryBackoff:                &backoff,
		CacheTTL:                           2 * time.Minute,
		ClientCertificateCAContentProvider: ca,
	}.New()
	if err != nil {
		return nil, fmt.Errorf("make authenticator: %w", err)
	}
	authz, err := authorizerfactory.DelegatingAuthorizerConfig{
		SubjectAccessReviewClient: cfg.Client.AuthorizationV1(),
		AllowCacheTTL:             5 * time.Minute,
		DenyCacheTTL:              30 * time.Second,
		WebhookRetryBackoff:       &backoff,
	}.New()
	if err != nil {
		return nil, fmt.Errorf("make authorizer: %w", err)
	}
	return &access{authn: authn, authz: authz, ca: ca}, nil
}

// guard lets a request through to next only when its client is known and may.
func (a *access) guard(next http.Handler, pods PodSource) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		resp, ok, err := a.authn.AuthenticateRequest(r)
		if err != nil || !ok || resp.User.GetName() == user.Anonymous {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		name := nodeOf(r.URL.Path, pods)
		var why string
		var failed error
		for _, sub := range subresources(r.URL.Path) {
			decision, reason, err := a.authz.Authorize(r.Context(), authorizer.AttributesRecord{
				User: resp.User, Verb: verb(r), APIVersion: "v1", Resource: "nodes", Subresource: sub,
				Name: name, ResourceRequest: true, Path: r.URL.Path,
			})
			if err != nil {
				failed = err
				continue // the other right may be known
			}
			if decision == authorizer.DecisionAllow {
				next.ServeHTTP(w, r)
				return
			}
			why = fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource=%s) %s", resp.User.GetName(), verb(r), sub, reason)
		}
		if failed != nil {
			http.Error(w, "Internal Server Error: the access review failed", http.StatusInternalServerError)
			return
		}
		http.Error(w, why, http.StatusForbidden)
	})
}

// subresources names what a path needs, as a kubelet with fine-grained
// authorization does (KubeletFineGrainedAuthz, Kubernetes 1.36): the narrow
// right first, nodes/proxy as the old one.
func subresources(path string) []string {
	root, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch root {
	case "stats":
		return []string{"stats"}
	case "metrics":
		return []string{"metrics"}
	case "logs":
		return []string{"log"}
	case "healthz":
		return []string{"healthz", "proxy"}
	case "configz":
		return []string{"configz", "proxy"}
	case "pods", "runningpods":
		return []string{"pods", "proxy"}
	}
	return []string{"proxy"}
}

// verb is what a request does. A program is started, whatever the method says:
// a websocket always begins with GET, and the right to read must not be enough.
func verb(r *http.Request) string {
	switch root, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); root {
	case "exec", "attach", "portForward", "run":
		return "create"
	}
	switch r.Method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return "get"
}

// nodeOf names the node that a request for one pod is about. Other requests are
// about all nodes served here, so they need the right for all nodes.
func nodeOf(path string, pods PodSource) string {
	parts := strings.Split(strings.TrimPrefix(path, "/"), "/")
	if len(parts) < 3 || subresources(path)[0] != "proxy" {
		return ""
	}
	if p, ok := pods.Pod(parts[1], parts[2]); ok {
		return p.Spec.NodeName
	}
	return ""
}

// certificate is the serving certificate, read again when its file changes.
type certificate struct {
	certFile, keyFile string

	mu     sync.Mutex
	loaded *tls.Certificate
	stamp  time.Time
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := os.Stat(c.certFile)
	if err == nil && c.loaded != nil && st.ModTime().Equal(c.stamp) {
		return c.loaded, nil
	}
	pair, loadErr := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err := errors.Join(err, loadErr); err != nil {
		if c.loaded != nil {
			return c.loaded, nil // half-written files: keep serving with the old pair
		}
		return nil, fmt.Errorf("read serving certificate: %w", err)
	}
	c.loaded, c.stamp = &pair, st.ModTime()
	return c.loaded, nil
}
