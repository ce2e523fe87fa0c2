package measure

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// The questions, of which each answer is per cent by instance: the mean of ten
// minutes, of what node_exporter tells, as Volcano has it.
const (
	cpuQuery    = `avg_over_time((100 - (avg by (instance) (rate(node_cpu_seconds_total{mode="idle"}[5m])) * 100))[10m:30s])`
	memoryQuery = `100 * avg_over_time((1 - node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)[10m:30s])`
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 64 << 20

// answer is Prometheus' to an instant query.
type answer struct {
	Status string `json:"status"`
	Error  string `json:"error"`
	Data   struct {
		ResultType string `json:"resultType"`
		Result     []struct {
			Metric map[string]string `json:"metric"`
			Value  [2]any            `json:"value"`
		} `json:"result"`
	} `json:"data"`
}

// prometheus asks a Prometheus server about all nodes at once.
func (k *Keeper) prometheus(ctx context.Context, m config.Measuring) ([]snapshot.Load, error) {
	client := &http.Client{Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true,
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12, InsecureSkipVerify: m.Insecure}, //nolint:gosec,forbidigo // the administrator asks for it in Volcano's words; only loads are read, no secret is sent
	}}
	known := map[string]bool{}
	for _, n := range k.Nodes() {
		known[n.Name] = true
	}
	cpu, err := query(ctx, client, m.Address, cpuQuery, known)
	if err != nil {
		return nil, err
	}
	memory, err := query(ctx, client, m.Address, memoryQuery, known)
	if err != nil {
		return nil, err
	}
	var out []snapshot.Load
	for name := range known {
		busy, ok := cpu[name]
		full, both := memory[name]
		if ok && both { // half a measurement would make the node look idle
			out = append(out, snapshot.Load{Node: name, CPU: busy, Memory: full})
		}
	}
	return out, nil
}

// query asks one question and returns thousandths by node.
func query(ctx context.Context, client *http.Client, address, question string, known map[string]bool) (map[string]int64, error) {
	u := strings.TrimRight(address, "/") + "/api/v1/query?" + url.Values{"query": {question}}.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return nil, fmt.Errorf("ask Prometheus: %w", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, fmt.Errorf("ask Prometheus: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("read the answer of Prometheus: %w", err)
	}
	var a answer
	if err := json.Unmarshal(text, &a); err != nil {
		return nil, fmt.Errorf("read the answer of Prometheus, status %s: %w", resp.Status, err)
	}
	if a.Status != "success" || a.Data.ResultType != "vector" {
		return nil, fmt.Errorf("the answer of Prometheus is %s, %q of type %q, and not a vector", resp.Status, a.Error, a.Data.ResultType)
	}
	out := map[string]int64{}
	for _, r := range a.Data.Result {
		name := nodeOf(r.Metric, known)
		text, ok := r.Value[1].(string)
		v, err := strconv.ParseFloat(text, 64)
		if name == "" || !ok || err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
			continue
		}
		out[name] = int64(math.Round(min(max(v, 0), 1e6) * 10))
	}
	return out, nil
}

// nodeOf is the node that a series is about: by a label that says so, or by its
// instance, with or without a port.
func nodeOf(labels map[string]string, known map[string]bool) string {
	for _, key := range []string{"node", "nodename", "kubernetes_node", "instance"} {
		name := labels[key]
		if host, _, err := net.SplitHostPort(name); err == nil && !known[name] {
			name = host
		}
		if known[name] {
			return name
		}
	}
	return ""
}
