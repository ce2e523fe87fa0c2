package slurm

import (
	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// submitKind is slurmjob.Classify for a failed sbatch. One that a signal ended may have
// got through, whatever it complained of before; its own exit codes are 1 and
// 255.
func submitKind(res transport.Result) backends.Kind {
	if res.Exit > 128 && res.Exit <= 128+64 {
		return backends.KindUnknownOutcome
	}
	return slurmjob.Classify(said(res))
}
