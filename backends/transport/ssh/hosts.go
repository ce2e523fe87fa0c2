package ssh

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	firstBackOff = time.Second
	maxBackOff   = time.Minute
)

// hop is a host to log in to.
type hop struct {
	user    string // "" is that of the last host
	address string // host:port
}

// parseAddress completes host or host:port.
func parseAddress(s string) (string, error) {
	host, port := s, "22"
	if h, p, err := net.SplitHostPort(s); err == nil {
		host, port = h, p
	} else if strings.Contains(s, ":") && net.ParseIP(s) == nil {
		return "", fmt.Errorf("%q is not host or host:port", s)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%q: the port is not a number from 1 to 65535", s)
	}
	if host == "" || strings.HasPrefix(host, "-") || strings.ContainsAny(host, " \t\r\n@/\\'\"*?!,") {
		return "", fmt.Errorf("%q is not host or host:port", s)
	}
	return net.JoinHostPort(host, port), nil
}

// parseHop reads [user@]host[:port].
func parseHop(s string) (hop, error) {
	user, rest := "", s
	if at := strings.LastIndexByte(s, '@'); at >= 0 { // a user's name may have one
		if user, rest = s[:at], s[at+1:]; !userForm.MatchString(user) {
			return hop{}, fmt.Errorf("%q: %q is not a user name", s, user)
		}
	}
	address, err := parseAddress(rest)
	return hop{user: user, address: address}, err
}

// hosts remembers which login node was good and which ones to spare.
type hosts struct {
	mu    sync.Mutex
	names []string
	good  int
	state []hostState
}

type hostState struct {
	failures int
	until    time.Time
	err      error
}

func newHosts(names []string) *hosts {
	return &hosts{names: names, state: make([]hostState, len(names))}
}

// order gives the hosts to try now, the last good one first, and what is known
// of the others.
func (h *hosts) order(now time.Time) (try []int, spared []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for i := range h.names {
		n := (h.good + i) % len(h.names)
		if s := h.state[n]; now.Before(s.until) {
			spared = append(spared, fmt.Sprintf("%s is tried again in %s, after: %v", h.names[n], s.until.Sub(now).Round(time.Second), s.err))
			continue
		}
		try = append(try, n)
	}
	return try, spared
}

func (h *hosts) worked(n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.good, h.state[n] = n, hostState{}
}

func (h *hosts) failed(n int, err error, now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := &h.state[n]
	s.until = now.Add(min(firstBackOff<<min(s.failures, 10), maxBackOff))
	s.failures++
	s.err = err
}
