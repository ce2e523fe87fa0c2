package podman_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/podman"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/runtimetest"
)

func TestCommandLines(t *testing.T) { runtimetest.Golden(t, podman.Runtime{}) }
