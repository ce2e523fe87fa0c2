package config_test

import (
	"reflect"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
)

// TestWhereLoadsAreMeasured: nobody is asked where no plugin needs it.
func TestWhereLoadsAreMeasured(t *testing.T) {
	const with, without = "actions: allocate\ntiers: [{plugins: [{name: usage}]}]\n", "actions: allocate\n"
	for text, want := range map[string]*config.Measuring{
		without: nil,
		with:    {Source: config.MetricsServer, Interval: 30 * time.Second},
		with + "metrics: {type: metrics-server, interval: 5s}\n":                                      {Source: config.MetricsServer, Interval: 5 * time.Second},
		with + "metrics: {type: metrics-server, interval: 5ms}\n":                                     {Source: config.MetricsServer, Interval: time.Second},
		with + "metrics: {type: elasticsearch}\n":                                                     nil,
		with + "metrics: {type: prometheus, address: 'https://p', tls: {insecureSkipVerify: true}}\n": {Source: config.Prometheus, Address: "https://p", Interval: 30 * time.Second, Insecure: true},
		// A profile may have the plugin.
		without + "metrics: {type: prometheus, address: 'http://p:9090', interval: 1m}\n": {Source: config.Prometheus, Address: "http://p:9090", Interval: time.Minute},
	} {
		c, _, err := config.Parse([]byte(text))
		if got := c.Measuring(); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, want %+v, %v", text, got, want, err)
		}
	}
}
