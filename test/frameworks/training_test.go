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

// MindSpore: three workers find their scheduler, by the address that takes the
// place of its name, and sum a tensor.
func TestMindSpore(t *testing.T) {
	python(t, "mindspore")
	ns := namespace(t, "mindspore")
	example(t, ns, "mindspore.yaml")
	computed(t, ns, "mindspore", map[string]string{
		"mindspore-worker-0": "rank 0 of 3: all-reduce = 6",
		"mindspore-worker-1": "rank 1 of 3: all-reduce = 6",
		"mindspore-worker-2": "rank 2 of 3: all-reduce = 6",
	})
}

// TensorFlow: three workers read TF_CONFIG and sum a tensor.
func TestTensorFlow(t *testing.T) {
	python(t, "tensorflow")
	ns := namespace(t, "tensorflow")
	example(t, ns, "tensorflow.yaml")
	computed(t, ns, "tensorflow", map[string]string{
		"tensorflow-worker-0": "worker 0 of 3: all-reduce = 6",
		"tensorflow-worker-1": "worker 1 of 3: all-reduce = 6",
		"tensorflow-worker-2": "worker 2 of 3: all-reduce = 6",
	})
}
