package frameworks

import (
	"path/filepath"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/venv"
)

// MPI: mpirun in the master reaches the workers by the sshd that they run as the
// job's account, with the keys and names that the plugins give them, and each
// rank has its host. Open MPI 5 starts processes by other means than 4 does.
func TestMPI(t *testing.T) {
	packages(t, debian.Software{
		Programs: []string{"mpirun", "/usr/lib/python3/dist-packages/mpi4py/__init__.py", "/usr/sbin/sshd"},
		Packages: []string{"openmpi-bin", "python3-mpi4py", "openssh-client", "openssh-server"},
	})
	python(t, "mpi")
	bin := filepath.Join(venv.Dir, "mpi", "bin")
	for name, programs := range map[string][]string{
		"4": nil,
		"5": {"[mpirun,", "[" + bin + "/mpirun,", " python3,", " " + bin + "/python3,"},
	} {
		t.Run(name, func(t *testing.T) {
			ns := namespace(t, "mpi-"+name)
			// What the chart gives by controllers.sshNamespaces.
			kubectl(t, "create", "rolebinding", "ssh", "-n", ns, "--clusterrole=isthmus:controllers-ssh", "--serviceaccount="+environment.ServiceAccountsNamespace+":isthmus-controllers")
			example(t, ns, "mpi.yaml", programs...)
			computed(t, ns, "mpi", map[string]string{"mpi-master-0": "2 ranks on 2 hosts: all-reduce = 3"})
		})
	}
}
