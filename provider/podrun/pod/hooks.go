package pod

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/isthmus-hpc/isthmus/provider/podrun/grpchealth"
)

// port gives a number for a port that may be given by the name of one of the
// container's ports.
func port(c *corev1.Container, p intstr.IntOrString) (string, error) {
	if p.Type == intstr.Int {
		return strconv.Itoa(p.IntValue()), nil
	}
	for _, cp := range c.Ports {
		if cp.Name == p.StrVal {
			return strconv.Itoa(int(cp.ContainerPort)), nil
		}
	}
	if _, err := strconv.ParseUint(p.StrVal, 10, 16); err == nil {
		return p.StrVal, nil
	}
	return "", fmt.Errorf("port %q is not one of the container's ports", p.StrVal)
}

// httpGet makes one request. Codes from 200 to 399 are success.
func httpGet(ctx context.Context, c *corev1.Container, a *corev1.HTTPGetAction, ip, agent string) error {
	p, err := port(c, a.Port)
	if err != nil {
		return err
	}
	u, err := url.Parse(a.Path)
	if err != nil {
		return fmt.Errorf("path: %w", err)
	}
	u.Scheme, u.Host = "http", net.JoinHostPort(first(a.Host, ip), p)
	if a.Scheme == corev1.URISchemeHTTPS {
		u.Scheme = "https"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", agent)
	req.Header.Set("Accept", "*/*")
	for _, h := range a.HTTPHeaders {
		if http.CanonicalHeaderKey(h.Name) == "Host" {
			req.Host = h.Value
			continue
		}
		req.Header.Add(h.Name, h.Value)
	}
	client := &http.Client{
		// A kubelet does not verify either: the pod's certificate names no address.
		Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}},
		CheckRedirect: func(next *http.Request, via []*http.Request) error {
			if next.URL.Hostname() != u.Hostname() || len(via) >= 10 {
				return http.ErrUseLastResponse
			}
			return nil
		},
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, 10<<10) // the code alone decides
	if res.StatusCode < 200 || res.StatusCode >= 400 {
		return fmt.Errorf("HTTP status %d", res.StatusCode)
	}
	return nil
}

// tcpConnect succeeds when something listens.
func tcpConnect(ctx context.Context, c *corev1.Container, a *corev1.TCPSocketAction, ip string) error {
	p, err := port(c, a.Port)
	if err != nil {
		return err
	}
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", net.JoinHostPort(first(a.Host, ip), p))
	if err != nil {
		return err
	}
	return conn.Close()
}

// hook runs a lifecycle hook.
func (c *container) hook(ctx context.Context, h *corev1.LifecycleHandler) error {
	switch {
	case h.Exec != nil:
		return c.exec(ctx, h.Exec.Command)
	case h.HTTPGet != nil:
		return httpGet(ctx, c.spec, h.HTTPGet, c.pod.at.ip, "kube-lifecycle/isthmus")
	case h.TCPSocket != nil: // deprecated, but the API still has it
		return tcpConnect(ctx, c.spec, h.TCPSocket, c.pod.at.ip)
	case h.Sleep != nil:
		timer := time.NewTimer(time.Duration(h.Sleep.Seconds) * time.Second)
		defer timer.Stop()
		select {
		case <-timer.C:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return errors.New("no handler")
}

// check makes one try of a probe.
func (c *container) check(ctx context.Context, p *corev1.Probe) error {
	switch {
	case p.Exec != nil:
		return c.exec(ctx, p.Exec.Command)
	case p.HTTPGet != nil:
		return httpGet(ctx, c.spec, p.HTTPGet, c.pod.at.ip, "kube-probe/isthmus")
	case p.TCPSocket != nil:
		return tcpConnect(ctx, c.spec, p.TCPSocket, c.pod.at.ip)
	case p.GRPC != nil:
		service := ""
		if p.GRPC.Service != nil {
			service = *p.GRPC.Service
		}
		return grpchealth.Check(ctx, net.JoinHostPort(c.pod.at.ip, strconv.Itoa(int(p.GRPC.Port))), service, "kube-probe/isthmus")
	}
	return errors.New("no handler")
}

// probe tries until ctx ends and tells tell each time the verdict changes: the
// thresholds' worth of equal outcomes in a row. tell returns false to end it.
func (c *container) probe(ctx context.Context, name string, p *corev1.Probe, tell func(ok bool, err error) bool) {
	seconds := func(n, def int32) time.Duration { return time.Duration(max(n, def)) * time.Second }
	period := 10 * time.Second
	if p.PeriodSeconds > 0 {
		period = seconds(p.PeriodSeconds, 1)
	}
	failures, successes := p.FailureThreshold, max(p.SuccessThreshold, 1)
	if failures < 1 {
		failures = 3
	}
	timer := time.NewTimer(seconds(p.InitialDelaySeconds, 0))
	defer timer.Stop()
	var bad, good int32
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		try, cancel := context.WithTimeout(ctx, seconds(p.TimeoutSeconds, 1))
		err := c.check(try, p)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			good, bad = good+1, 0
		} else {
			if bad == 0 { // the first of a row: a kubelet counts the others in the same event
				c.pod.event("Warning", "Unhealthy", fmt.Sprintf("%s probe of container %s failed: %v", name, c.spec.Name, err))
			}
			good, bad = 0, bad+1
		}
		if good == successes || bad == failures {
			if !tell(err == nil, err) {
				return
			}
		}
		timer.Reset(period)
	}
}

// exec runs a command beside the container: with its mounts and environment. It
// fails when the command does; at the end of ctx the command is killed.
func (c *container) exec(ctx context.Context, command []string) error {
	words := make([][]byte, len(command))
	for i, w := range command {
		words[i] = []byte(w)
	}
	child, mark, err := c.beside(words, nil)
	if err != nil {
		return err
	}
	select {
	case <-child.Done():
	case <-ctx.Done():
		_ = syscall.Kill(-mark.PID, syscall.SIGKILL)
		if err := mark.KillAll(killLimit); err != nil {
			return err
		}
		<-child.Done()
		return ctx.Err()
	}
	if t := terminated(child.Status()); t.ExitCode != 0 {
		return errors.New("command ended with exit code " + strconv.Itoa(int(t.ExitCode)))
	}
	return nil
}
