package frameworks

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
)

// java is what Spark and Flink run on.
var java = debian.Software{Programs: []string{"/usr/bin/java"}, Packages: []string{"openjdk-17-jre-headless"}}

// Ray: the plugin ray starts a head and two workers, which compute pi for a
// client in a fourth pod.
func TestRay(t *testing.T) {
	python(t, "ray")
	ns := namespace(t, "ray")
	example(t, ns, "ray.yaml")
	computed(t, ns, "ray", map[string]string{"ray-driver-0": "pi = 3.141592654 by 3 nodes"})
}

// Spark: a standalone cluster of a master and two workers computes for a driver
// in a fourth pod.
func TestSpark(t *testing.T) {
	packages(t, java)
	python(t, "spark")
	ns := namespace(t, "spark")
	example(t, ns, "spark.yaml")
	computed(t, ns, "spark", map[string]string{"spark-driver-0": "sum = 500000500000, even = 500000, on 2 hosts"})
}

// Flink: a standalone cluster of a job manager and two task managers, each with
// room for one of the two parts of a query, answers a client in a fourth pod.
func TestFlink(t *testing.T) {
	packages(t, java)
	python(t, "flink")
	ns := namespace(t, "flink")
	example(t, ns, "flink.yaml")
	computed(t, ns, "flink", map[string]string{"flink-client-0": "sum = 500000500000, odd = 500000"})
}
