package slurmrest

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// dialTimeout bounds the making of a connection.
const dialTimeout = 10 * time.Second

// connect makes the client for a URL and the base of its requests.
func connect(text, caFile string) (*http.Client, string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, "", fmt.Errorf("url: %q: %w", text, err)
	}
	if u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, "", errors.New("url: user, query and fragment have no place in it")
	}
	dialer := &net.Dialer{Timeout: dialTimeout}
	transport := &http.Transport{
		// A connection each: one that the server closes between two requests would
		// leave open whether the second was done. It also means no proxy, which
		// would see the tokens.
		DisableKeepAlives:     true,
		DialContext:           dialer.DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: 0, // the request's own deadline bounds it
	}
	client := &http.Client{
		Transport: transport,
		// A token is never shown to whom the server names.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if caFile != "" && u.Scheme != "https" {
		return nil, "", fmt.Errorf("caFile: it has no use with a URL of scheme %q", u.Scheme)
	}
	switch u.Scheme {
	case "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			return nil, "", fmt.Errorf("url: %q: want unix:///absolute/path", text)
		}
		path := u.Path
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "unix", path)
		}
		return client, "http://localhost", nil
	case "http":
		if !loopback(u.Hostname()) {
			return nil, "", fmt.Errorf("url: %q: plain http would show tokens on the way; use https, unix, or a loopback address", text)
		}
	case "https":
		roots, err := authorities(caFile)
		if err != nil {
			return nil, "", err
		}
		transport.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: roots}
	default:
		return nil, "", fmt.Errorf("url: %q: want https://, unix:// or, on loopback, http://", text)
	}
	if u.Hostname() == "" || (u.Path != "" && u.Path != "/") {
		return nil, "", fmt.Errorf("url: %q: want %s://host:port and nothing behind it", text, u.Scheme)
	}
	return client, u.Scheme + "://" + u.Host, nil
}

// loopback reports whether a host is this one; a name other than localhost
// could be made to mean another.
func loopback(host string) bool {
	if host == "localhost" {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.IsLoopback()
}

// authorities reads the CA file; nil stands for the system's.
func authorities(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("caFile: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("caFile: %s holds no certificate in PEM", file)
	}
	return pool, nil
}
