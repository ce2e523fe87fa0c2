package frameworks

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
)

// pytorch installs Debian's build, which is for processors alone; PyPI's comes
// with gigabytes for GPUs.
func pytorch(t *testing.T) {
	t.Helper()
	packages(t, debian.Software{
		Programs: []string{"/usr/lib/python3/dist-packages/torch/__init__.py"}, Packages: []string{"python3-torch"},
	})
}

// PyTorch: three processes on three hosts meet by the variables that the plugin
// pytorch sets, sum a tensor and train a model, with gloo.
func TestPyTorch(t *testing.T) {
	pytorch(t)
	ns := namespace(t, "pytorch")
	example(t, ns, "pytorch.yaml")
	computed(t, ns, "pytorch", map[string]string{
		"pytorch-master-0": "rank 0 of 3: all-reduce = 6, model = 3.00 x - 2.00",
		"pytorch-worker-0": "rank 1 of 3: all-reduce = 6, model = 3.00 x - 2.00",
		"pytorch-worker-1": "rank 2 of 3: all-reduce = 6, model = 3.00 x - 2.00",
	})
	hosts := map[string]bool{}
	for h := range strings.FieldsSeq(kubectl(t, "get", "pods", "-n", ns, "-o", `jsonpath={.items[*].metadata.annotations.isthmus\.sh/batch-node}`)) {
		hosts[h] = true
	}
	if len(hosts) != 3 {
		t.Errorf("the pods ran on the hosts %v, want three", hosts)
	}
}
