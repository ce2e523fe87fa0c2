package enroot_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/enroot"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/runtimetest"
)

func TestCommandLines(t *testing.T) { runtimetest.Golden(t, enroot.Runtime{}) }

func TestOddTargets(t *testing.T) {
	for _, target := range []string{"/a:b", "/a b", "/a#b", `/a\b`} {
		c := runtimetest.Sample()
		c.Main.Mounts[1].Target = target
		if _, err := (enroot.Runtime{}).Run(c); err == nil {
			t.Errorf("%s is accepted", target)
		}
	}
}
