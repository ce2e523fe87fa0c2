package slurm

import (
	"fmt"
	"regexp"
	"strconv"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

var _ backends.Enterer = (*Backend)(nil)

var hostForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$`)

// Enter gives an srun that starts argv as a further step of the job, beside its
// others: --overlap lets it share what they hold. It asks for no memory or
// device of its own, since what it starts hands all work to a process that is
// there already.
//
// srun hands output on line by line, so argv should end what it writes with a
// newline. --unbuffered would put a terminal in the way (srun(1)), which does not
// leave bytes as they are.
func (b *Backend) Enter(job backends.JobRef, host string, argv []string) (backends.Entry, error) {
	fail := func(err error) (backends.Entry, error) {
		return backends.Entry{}, &backends.Error{Op: "enter", Kind: backends.KindInvalid, Key: job.Key, Err: err}
	}
	switch {
	case !slurmjob.ValidID(string(job.ID)):
		return fail(fmt.Errorf("%.40q is not a job id", string(job.ID)))
	case job.Component < 0 || job.Component > slurmjob.MaxComponents:
		return fail(fmt.Errorf("component %d is none", job.Component))
	case !hostForm.MatchString(host):
		return fail(fmt.Errorf("%.80q is not a host name", host))
	case len(argv) == 0 || argv[0] == "":
		return fail(fmt.Errorf("no program given"))
	}
	if err := slurmjob.CheckUser(job.User); err != nil {
		return fail(err)
	}
	args := []string{"srun"}
	if b.config.Cluster != "" {
		args = append(args, "--clusters="+b.config.Cluster)
	}
	args = append(args, "--jobid="+string(job.ID))
	if job.Component > 0 {
		args = append(args, "--het-group="+strconv.Itoa(job.Component-1))
	}
	args = append(args,
		"--overlap", "--nodes=1", "--ntasks=1", "--cpus-per-task=1", "--nodelist="+host,
		"--mem=0", "--gres=none", "--mpi=none", "--input=all", "--quiet",
		"--export=NONE", "--job-name=isthmus-stream", "--chdir=/", "--")
	return backends.Entry{Argv: append(args, argv...), Env: append([]string{"LC_ALL=C"}, b.config.Env...), User: job.User}, nil
}
