// Package nodeaddr finds the network addresses of compute nodes: from the batch
// system for all nodes of an allocation, or from what one node knows of itself.
package nodeaddr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// askLimit bounds the question to the batch system.
const askLimit = 30 * time.Second

// Slurm asks the controller once for the addresses of all nodes of the job whose
// environment is env. Nodes whose address is a name that does not resolve to
// something other nodes could use are left out: they find their own.
func Slurm(ctx context.Context, env []string) (map[string]string, error) {
	list := NodeList(env)
	if list == "" {
		return nil, errors.New("the job's environment names no nodes")
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, "scontrol", "-o", "show", "node", list)
	cmd.Env = env
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("scontrol show node: %w", err)
	}
	addresses := map[string]string{}
	for node, addr := range ParseNodes(string(out)) {
		if ip, err := netip.ParseAddr(addr); err == nil {
			addresses[node] = ip.String()
		} else if ip := resolve(ctx, addr); ip.IsValid() && !ip.IsLoopback() {
			addresses[node] = ip.String()
		}
	}
	return addresses, nil
}

// Hosts gives the addresses that this host finds under the names of others. It
// leaves out those that are not found, and loopback addresses, which say
// nothing to another host.
func Hosts(ctx context.Context, names []string) map[string]string {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	addresses := map[string]string{}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for _, name := range slices.Compact(slices.Sorted(slices.Values(names))) {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if ip := resolve(ctx, name); ip.IsValid() && !ip.IsLoopback() {
				mu.Lock()
				defer mu.Unlock()
				addresses[name] = ip.String()
			}
		})
	}
	wg.Wait()
	return addresses
}

// NodeList is the host list of a Slurm job or of all components of a
// heterogeneous one.
func NodeList(env []string) string {
	vars := map[string]string{}
	for _, kv := range env {
		if name, value, ok := strings.Cut(kv, "="); ok && strings.HasPrefix(name, "SLURM_JOB_NODELIST") {
			vars[name] = value
		}
	}
	var lists []string
	for i := 0; ; i++ {
		v := vars[fmt.Sprintf("SLURM_JOB_NODELIST_HET_GROUP_%d", i)]
		if v == "" {
			break
		}
		lists = append(lists, v)
	}
	if len(lists) == 0 {
		return vars["SLURM_JOB_NODELIST"]
	}
	return strings.Join(lists, ",")
}

// ParseNodes reads the output of scontrol -o show node: one line a node.
func ParseNodes(out string) map[string]string {
	nodes := map[string]string{}
	for line := range strings.Lines(out) {
		var name, addr string
		for _, word := range strings.Fields(line) {
			if v, ok := strings.CutPrefix(word, "NodeName="); ok && name == "" {
				name = v
			}
			if v, ok := strings.CutPrefix(word, "NodeAddr="); ok && addr == "" {
				addr = v
			}
		}
		if name != "" && addr != "" {
			nodes[name] = addr
		}
	}
	return nodes
}

// Local finds this node's own address: its name's, unless that is the loopback
// address which many systems give their own name, else that of the interface
// that leads outside, else loopback. It sends no packet but name queries.
func Local(name string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askLimit)
	defer cancel()
	var named netip.Addr
	if name != "" {
		named = resolve(ctx, name)
	}
	if named.IsValid() && !named.IsLoopback() {
		return named.String(), nil
	}
	if ip := outward(); ip.IsValid() {
		return ip.String(), nil
	}
	if named.IsValid() {
		return named.String(), nil
	}
	if addrs, err := net.InterfaceAddrs(); err == nil {
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok && n.IP.IsLoopback() && n.IP.To4() != nil {
				return n.IP.String(), nil
			}
		}
	}
	return "", fmt.Errorf("no network address of this node (%q) was found", name)
}

// resolve gives a host's first address, an IPv4 one if there is any.
func resolve(ctx context.Context, host string) netip.Addr {
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil || len(ips) == 0 {
		return netip.Addr{}
	}
	if i := slices.IndexFunc(ips, func(a netip.Addr) bool { return a.Unmap().Is4() }); i >= 0 {
		return ips[i].Unmap()
	}
	return ips[0]
}

// outward is the address from which packets to the outside would be sent, else
// the first global address of an interface.
func outward() netip.Addr {
	for _, target := range []string{"192.0.2.1:9", "[2001:db8::1]:9"} { // documentation addresses: connecting a datagram socket sends nothing
		conn, err := net.Dial("udp", target)
		if err != nil {
			continue
		}
		ap, err := netip.ParseAddrPort(conn.LocalAddr().String())
		_ = conn.Close()
		if err == nil && !ap.Addr().IsLoopback() && !ap.Addr().IsLinkLocalUnicast() {
			return ap.Addr().Unmap()
		}
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			if ip, ok := netip.AddrFromSlice(n.IP); ok {
				return ip.Unmap()
			}
		}
	}
	return netip.Addr{}
}
