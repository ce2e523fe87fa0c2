package charliecloud_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/charliecloud"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/runtimetest"
)

func TestCommandLines(t *testing.T) { runtimetest.Golden(t, charliecloud.Runtime{}) }

func TestColon(t *testing.T) {
	c := runtimetest.Sample()
	c.Main.Mounts[1].Target = "/a:b"
	if _, err := (charliecloud.Runtime{}).Run(c); err == nil || err.Error() != `spec.containers[0].volumeMounts[0].mountPath: "/a:b" has a colon, which ch-run cannot mount at` {
		t.Errorf("error %v", err)
	}
}
