package apptainer_test

import (
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/apptainer"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/runtimetest"
)

func TestCommandLines(t *testing.T) { runtimetest.Golden(t, apptainer.Runtime{}) }
