package main

import "github.com/spf13/pflag"

// Addresses that Volcano's controller manager serves on when told to serve at all.
const (
	volcanoMetrics = ":8081"
	volcanoHealth  = ":11251"
)

// volcanoFlags are switches of Volcano's controller manager, so that a deployment
// made for it starts with this program.
type volcanoFlags struct{ metrics, health bool }

// unused are flags of Volcano's controller manager that have no meaning here.
var unused = map[string]string{
	"master": "-", "ca-cert-file": "-", "tls-cert-file": "-", "tls-private-key-file": "-", "controllers": "*",
	"worker-threads-for-podgroup": "5", "worker-threads-for-queue": "5", "worker-threads-for-gc": "1", "max-requeue-num": "15",
	"detection-period-of-dependson-task": "100ms", "feature-gates": "-", "leader-elect-resource-lock": "leases", "leader-elect-resource-name": "-",
	"leader-elect-lease-duration": "15s", "leader-elect-renew-deadline": "10s", "leader-elect-retry-period": "2s",
	"logtostderr": "true", "alsologtostderr": "false", "stderrthreshold": "-", "vmodule": "-",
	"sharding-configs-file": "-", "enable-sharding-controller": "false",
}

func (v *volcanoFlags) addFlags(f *pflag.FlagSet, o *options) {
	f.BoolVar(&v.metrics, "enable-metrics", false, "serve metrics on "+volcanoMetrics+" unless an address is given")
	f.BoolVar(&v.health, "enable-healthz", false, "serve /healthz and /readyz on "+volcanoHealth+" unless an address is given")
	f.StringVar(&o.metricsAddress, "listen-address", o.metricsAddress, "the same as --metrics-bind-address")
	f.StringVar(&o.healthAddress, "healthz-address", o.healthAddress, "the same as --health-probe-bind-address")
	f.StringVar(&o.leaderNamespace, "leader-elect-resource-namespace", o.leaderNamespace, "the same as --leader-election-namespace")
	f.StringVar(&o.leaderNamespace, "lock-object-namespace", o.leaderNamespace, "the same")
	f.IntVar(&o.workers, "worker-threads", o.workers, "the same as --workers")
	for name, value := range unused {
		f.String(name, value, "known from Volcano and not used")
		if value == "true" || value == "false" {
			f.Lookup(name).NoOptDefVal = "true"
		}
		f.Lookup(name).Hidden = true
	}
}

// resolve turns the switches into addresses.
func (v *volcanoFlags) resolve(o *options) {
	if v.metrics && o.metricsAddress == "0" {
		o.metricsAddress = volcanoMetrics
	}
	if v.health && o.healthAddress == "0" {
		o.healthAddress = volcanoHealth
	}
}
