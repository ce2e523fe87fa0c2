package slurm

import (
	"errors"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// notDone is the kind of a transport's error after which nothing was done:
// refused credentials take a person, all else is worth another try.
func notDone(err error) backends.Kind {
	if errors.Is(err, transport.ErrDenied) {
		return backends.KindDenied
	}
	return backends.KindTransient
}

// submitKind is slurmjob.Classify for a failed sbatch. One that a signal ended may have
// got through, whatever it complained of before; its own exit codes are 1 and
// 255.
func submitKind(res transport.Result) backends.Kind {
	if res.Exit > 128 && res.Exit <= 128+64 {
		return backends.KindUnknownOutcome
	}
	return slurmjob.Classify(res.Said())
}
