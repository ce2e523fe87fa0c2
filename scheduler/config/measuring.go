package config

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// The sources of measurements.
const (
	MetricsServer = "metrics-server"
	Prometheus    = "prometheus"
)

// foreign are the sources that Volcano has besides. They are known and not asked.
var foreign = []string{"prometheus_adaptor", "elasticsearch"}

// Measuring is where the loads of nodes come from.
type Measuring struct {
	Source string
	// Address is Prometheus'.
	Address  string
	Interval time.Duration
	// Insecure takes any certificate.
	Insecure bool
}

// measureEvery is how often nodes are measured when nothing is said.
const measureEvery = 30 * time.Second

// Measuring is where the loads of nodes come from, nil where no plugin asks for
// them and the configuration says nothing of it. Where nothing is said it is metrics-server.
func (c Config) Measuring() *Measuring {
	uses := func(p Plugin) bool {
		e := pluginOf(p.Name)
		return e != nil && e.measures
	}
	if len(c.Metrics) == 0 && !slices.ContainsFunc(c.Tiers, func(tier []Plugin) bool { return slices.ContainsFunc(tier, uses) }) {
		return nil
	}
	out := &Measuring{Source: c.Metrics["type"], Address: c.Metrics["address"], Interval: measureEvery, Insecure: c.Metrics["tls.insecureSkipVerify"] == "true"}
	if out.Source == "" {
		out.Source = MetricsServer
	}
	if slices.Contains(foreign, out.Source) {
		return nil
	}
	if d, err := time.ParseDuration(c.Metrics["interval"]); err == nil && d > 0 {
		out.Interval = max(d, time.Second)
	}
	return out
}

// measurements reads where loads are measured.
func (r *reader) measurements(v any) map[string]string {
	flat := r.flat("metrics", v)
	if len(flat) == 0 {
		return nil
	}
	out := map[string]string{}
	for _, key := range keys(flat) {
		s, ok := scalarText(flat[key])
		if !ok {
			r.wrong("metrics."+key, "must be a single value")
			continue
		}
		out[key] = s
		r.measurement(key, s)
	}
	if out["type"] == Prometheus && out["address"] == "" {
		r.wrong("metrics.address", "must be set for type prometheus, like http://prometheus.monitoring:9090")
	}
	return out
}

func (r *reader) measurement(key, s string) {
	at := "metrics." + key
	switch {
	case key == "type" && slices.Contains(foreign, s):
		r.unused(at, "source "+s, "metrics-server and Prometheus itself are asked")
	case key == "type":
		if s != Prometheus && s != MetricsServer {
			r.wrong(at, "is %q, must be one of %s", s, strings.Join(append([]string{MetricsServer, Prometheus}, foreign...), ", "))
		}
	case key == "address":
		if !isURL(s) {
			r.wrong(at, "is %q, must be a URL like http://prometheus.monitoring:9090", s)
		}
	case key == "interval":
		if d, err := time.ParseDuration(s); err != nil || d <= 0 {
			r.wrong(at, `is %q, must be a time like "30s"`, s)
		}
	case key == "tls.insecureSkipVerify":
		if _, err := strconv.ParseBool(s); err != nil {
			r.wrong(at, "is %q, must be true or false", s)
		}
	default:
		r.unused(at, "the setting", "nothing is known of it")
	}
}

// isURL reports whether a text is the URL of a host, as far as that can be told
// without a package that can also talk to it.
func isURL(s string) bool {
	rest, ok := strings.CutPrefix(s, "https://")
	if !ok {
		rest, ok = strings.CutPrefix(s, "http://")
	}
	host, _, _ := strings.Cut(rest, "/")
	return ok && host != "" && !strings.ContainsAny(s, " \t\"<>")
}
