package image

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"path"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/authn"
)

// Credential is what one entry of an imagePullSecret gives.
type Credential struct {
	pattern string // host[:port][/path]; "*" stands for part of a host's label
	auth    authn.AuthConfig
}

// ParseCredentials reads .dockerconfigjson documents. The error never quotes them.
func ParseCredentials(documents [][]byte) ([]Credential, error) {
	var out []Credential
	for i, doc := range documents {
		var config struct {
			Auths map[string]struct {
				Auth          string `json:"auth"`
				Username      string `json:"username"`
				Password      string `json:"password"`
				IdentityToken string `json:"identitytoken"`
				RegistryToken string `json:"registrytoken"`
			} `json:"auths"`
		}
		if err := json.Unmarshal(doc, &config); err != nil {
			return nil, fmt.Errorf("pull secret %d is no .dockerconfigjson", i) // the decoder's error quotes what it read
		}
		for server, a := range config.Auths {
			c := Credential{pattern: pattern(server), auth: authn.AuthConfig{
				Username: a.Username, Password: a.Password, IdentityToken: a.IdentityToken, RegistryToken: a.RegistryToken}}
			if a.Auth != "" {
				plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(a.Auth))
				if err != nil {
					return nil, fmt.Errorf("pull secret %d: auth of %q is no base64", i, server)
				}
				user, password, ok := strings.Cut(string(plain), ":")
				if !ok {
					return nil, fmt.Errorf("pull secret %d: auth of %q is not user:password", i, server)
				}
				c.auth.Username, c.auth.Password = user, strings.TrimRight(password, "\x00")
			}
			out = append(out, c)
		}
	}
	// The longest pattern is the most specific one.
	slices.SortStableFunc(out, func(a, b Credential) int {
		if n := len(b.pattern) - len(a.pattern); n != 0 {
			return n
		}
		return strings.Compare(a.pattern, b.pattern)
	})
	return out, nil
}

// pattern takes scheme and API version from a server's name: old files have
// "https://index.docker.io/v1/".
func pattern(server string) string {
	if u, err := url.Parse(server); err == nil && u.Host != "" {
		server = u.Host + u.Path
	}
	server = strings.TrimSuffix(server, "/")
	server = strings.TrimSuffix(strings.TrimSuffix(server, "/v1"), "/v2")
	host, rest, _ := strings.Cut(server, "/")
	if host == "index.docker.io" || host == "registry-1.docker.io" {
		host = "docker.io"
	}
	if rest == "" {
		return host
	}
	return host + "/" + rest
}

// matches follows the kubelet: the host's labels one by one, ports equal, the
// path a prefix.
func (c Credential) matches(registry, repository string) bool {
	host, prefix, _ := strings.Cut(c.pattern, "/")
	if prefix != "" && repository != prefix && !strings.HasPrefix(repository, prefix+"/") {
		return false
	}
	wantHost, wantPort, _ := strings.Cut(host, ":")
	haveHost, havePort, _ := strings.Cut(registry, ":")
	want, have := strings.Split(wantHost, "."), strings.Split(haveHost, ".")
	if wantPort != havePort || len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return true
}

// authenticators are the ways to try, in order: each credential that fits, and
// at last none at all.
func authenticators(all []Credential, registry, repository string) []authn.Authenticator {
	var out []authn.Authenticator
	for _, c := range all {
		if c.matches(registry, repository) {
			out = append(out, authn.FromConfig(c.auth))
		}
	}
	return append(out, authn.Anonymous)
}

// errNoCredential is said in place of a registry's 401 when no credential fits.
var errNoCredential = errors.New("no imagePullSecret has credentials for this registry")
