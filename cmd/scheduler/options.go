package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/leaderelection"

	"github.com/isthmus-hpc/isthmus/scheduler/driver"
	"github.com/isthmus-hpc/isthmus/scheduler/memory"
)

type options struct {
	kubeconfig  string
	conf        string
	names       []string
	await       time.Duration
	audit       time.Duration
	rights      time.Duration
	leaderElect bool
	leaseNS     string
	lease       lease
	metrics     string
	health      string
	pprof       string
	qps         float32
	burst       int
	workers     int
	verbosity   int
	logFormat   string

	enableMetrics, enableHealth, enableProfiles bool

	memory string // namespace of what is learnt

	idle []string // flags that were given and do nothing
}

// lease is how long the lease is held and how often it is renewed.
type lease struct{ duration, deadline, retry time.Duration }

// The addresses that Volcano's switches stand for.
const (
	off            = "0"
	volcanoMetrics = ":8080"
	volcanoHealth  = ":11251"
	profiles       = "127.0.0.1:6060"
)

func (o *options) register(f *pflag.FlagSet) {
	f.SetNormalizeFunc(dashes)
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "kubeconfig file; in-cluster configuration when empty")
	f.StringVar(&o.conf, "scheduler-conf", "", "configuration file in Volcano's format, read again when it changes; a standard one when empty")
	f.StringSliceVar(&o.names, "scheduler-name", nil, "schedulerName of the pods to place, may be given more than once (default volcano and isthmus)")
	f.DurationVar(&o.await, "await-pod-groups", 0, "how long a pod without a PodGroup waits for the controllers to make one; then it is placed alone (0: at once)")
	f.BoolVar(&o.leaderElect, "leader-elect", true, "schedule only while holding the lease isthmus-scheduler")
	f.StringVar(&o.leaseNS, "leader-elect-namespace", metav1.NamespaceSystem, "namespace of the lease")
	f.StringVar(&o.leaseNS, "leader-elect-resource-namespace", metav1.NamespaceSystem, "the same")
	f.StringVar(&o.leaseNS, "lock-object-namespace", metav1.NamespaceSystem, "the same")
	f.DurationVar(&o.audit, "audit-interval", driver.DefaultTiming().Audit, "how often what is counted as held is compared with a recount of all pods")
	f.DurationVar(&o.rights, "rights-interval", 30*time.Second, "how often rights to read and to evict that no role grants are asked for again; a write that another one stands in for is tried again after 2m")
	f.DurationVar(&o.lease.duration, "leader-elect-lease-duration", 15*time.Second, "how long others wait for a holder of the lease that is not heard of")
	f.DurationVar(&o.lease.deadline, "leader-elect-renew-deadline", 10*time.Second, "how long the holder tries to renew the lease before it ends; shorter than the lease")
	f.DurationVar(&o.lease.retry, "leader-elect-retry-period", 2*time.Second, "time between two tries to get or renew the lease; shorter than the deadline")
	f.StringVar(&o.memory, "memory-namespace", "", "namespace of the ConfigMap "+memory.Name+" that keeps learnt run times and what queues held over restarts (default none: they are learnt anew)")
	f.StringVar(&o.metrics, "metrics-bind-address", "", `HOST:PORT to serve /metrics on; "0" for off (default 127.0.0.1:0)`)
	f.StringVar(&o.metrics, "listen-address", "", "the same")
	f.BoolVar(&o.enableMetrics, "enable-metrics", false, "serve /metrics on "+volcanoMetrics+" unless an address is given")
	f.StringVar(&o.health, "health-probe-bind-address", "", `HOST:PORT to serve /healthz and /readyz on; "0" for off (default off)`)
	f.StringVar(&o.health, "healthz-address", "", "the same")
	f.BoolVar(&o.enableHealth, "enable-healthz", false, "serve /healthz on "+volcanoHealth+" unless an address is given")
	f.StringVar(&o.pprof, "pprof-bind-address", "", "loopback HOST:PORT to serve /debug/pprof on (default off)")
	f.BoolVar(&o.enableProfiles, "enable-pprof", false, "serve /debug/pprof on "+profiles+" unless an address is given")
	f.Float32Var(&o.qps, "kube-api-qps", 200, "requests a second to the API server")
	f.IntVar(&o.burst, "kube-api-burst", 400, "requests in a burst to the API server")
	f.IntVar(&o.workers, "bind-workers", 32, "bindings under way at a time")
	f.IntVarP(&o.verbosity, "v", "v", 0, "log level: 0 for operators, 1 for developers")
	f.StringVar(&o.logFormat, "log-format", "json", "json or text")
	for name, value := range unused {
		f.String(name, value, "known from Volcano and not used")
		if value == "true" || value == "false" {
			f.Lookup(name).NoOptDefVal = "true"
		}
		f.Lookup(name).Hidden = true
	}
}

// unused are flags of Volcano's scheduler that have no meaning here, so that a
// deployment made for it starts.
var unused = map[string]string{
	"master": "-", "schedule-period": "1s", "default-queue": "default", "priority-class": "true", "csi-storage": "false", "print-version": "-",
	"plugins-dir": "-", "minimum-feasible-nodes": "100", "minimum-percentage-nodes-to-find": "5", "percentage-nodes-to-find": "0",
	"node-selector": "-", "node-worker-threads": "20", "cache-dumper": "true", "cache-dump-dir": "-", "ignored-provisioners": "-",
	"feature-gates": "-", "leader-elect-resource-lock": "leases", "leader-elect-resource-name": "volcano", "ca-cert-file": "-", "tls-cert-file": "-",
	"tls-private-key-file": "-", "disable-default-scheduler-config": "false", "sharding-mode": "-", "scheduler-sharding-mode": "-", "scheduler-sharding-name": "-", "shard-name": "-",
	"resync-period": "0s", "resource-sync-timeout": "60s", "gate-removal-worker-num": "5",
	"logtostderr": "true", "alsologtostderr": "false", "stderrthreshold": "-", "alsologtostderrthreshold": "-", "legacy-stderr-threshold-behavior": "true", "vmodule": "-", "log-flush-frequency": "5s",
	"log-dir": "-", "log-file": "-", "log-file-max-size": "1800", "log-backtrace-at": "-",
	"add-dir-header": "false", "one-output": "false", "skip-headers": "false", "skip-log-headers": "false",
}

// dashes has flags go by their name with dashes, as Volcano's do: those of its log are
// mostly written with underscores.
func dashes(_ *pflag.FlagSet, name string) pflag.NormalizedName {
	return pflag.NormalizedName(strings.ReplaceAll(name, "_", "-"))
}

// refused says why a flag of Volcano's scheduler cannot be passed over: without its
// effect pods would go where they must not.
func refused(f *pflag.Flag) error {
	value := f.Value.String()
	switch {
	case f.Name == "node-selector" && value != "" && value != unused[f.Name]:
		return fmt.Errorf("--node-selector=%s is not known here, and without it pods would go to all nodes: take the flag away and say where the pods of a queue go by its spec.affinity and the node label volcano.sh/nodegroup-name (plugin nodegroup), or taint the other nodes", value)
	case f.Name == "default-queue" && value != "" && value != unused[f.Name]:
		return fmt.Errorf("--default-queue=%s is not known here: pods and PodGroups that name no queue go to queue default; take the flag away and name the queue in them, or give queue default what %s has", value, value)
	}
	return nil
}

// resolve turns Volcano's switches into addresses.
func (o *options) resolve() {
	address := func(given *string, on bool, of, otherwise string) {
		switch {
		case *given != "":
		case on:
			*given = of
		default:
			*given = otherwise
		}
	}
	address(&o.metrics, o.enableMetrics, volcanoMetrics, "127.0.0.1:0")
	address(&o.health, o.enableHealth, volcanoHealth, off)
	address(&o.pprof, o.enableProfiles, profiles, off)
}

func (o options) validate() error {
	switch {
	case o.qps <= 0 || o.burst <= 0:
		return errors.New("--kube-api-qps and --kube-api-burst must be positive")
	case o.await < 0:
		return fmt.Errorf("--await-pod-groups is %s, must not be negative", o.await)
	case o.rights <= 0:
		return fmt.Errorf("--rights-interval is %s, must be positive", o.rights)
	case o.workers < 1 || o.workers > 1024:
		return errors.New("--bind-workers must be between 1 and 1024")
	case o.lease.retry <= 0 || float64(o.lease.deadline) <= leaderelection.JitterFactor*float64(o.lease.retry) || o.lease.duration <= o.lease.deadline:
		return fmt.Errorf("--leader-elect-lease-duration (%s) must be longer than --leader-elect-renew-deadline (%s), and that longer than %.1f times --leader-elect-retry-period (%s)",
			o.lease.duration, o.lease.deadline, leaderelection.JitterFactor, o.lease.retry)
	case o.logFormat != "json" && o.logFormat != "text":
		return fmt.Errorf("--log-format is %q, must be json or text", o.logFormat)
	case o.pprof != off && !loopback(o.pprof):
		return fmt.Errorf("--pprof-bind-address is %q, must be a loopback address like %s: profiles tell what is in memory", o.pprof, profiles)
	}
	return nil
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}
