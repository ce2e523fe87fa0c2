package e2e

import (
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// site is a further Slurm cluster with a BatchCluster and a daemon of its own,
// for what a test cannot ask of the one that all share. Its pods select it by the
// label isthmus.sh/cluster.
type site struct {
	name  string
	slurm *testbed.Cluster
	group *process.Group
	spec  process.Spec
	vnode *process.Process
}

// newSite starts one that is called name, with one virtual node for the partition
// "a". change may alter the BatchCluster before it is created.
func newSite(t *testing.T, name string, config testbed.Config, change func(*testbed.Cluster, *hpcv1alpha1.BatchCluster)) *site {
	t.Helper()
	if here(t).Slurm() == nil {
		t.Skip("SKIP: this machine runs the local batch system, and this is about a Slurm of its own")
	}
	if config.Accounting {
		if err := testbed.EnsureAccountingInstalled(t.Context(), t.Output()); err != nil {
			t.Fatal(err)
		}
	}
	config.Name = name
	if config.Hosts == nil {
		config.Hosts = []testbed.Hosts{{Prefix: "n", Count: 2, CPUs: 64, MemoryMiB: 64000}}
		config.Partitions = []testbed.Partition{{Name: "a", Hosts: []string{"n[1-2]"}, Default: true}}
	}
	slurm, err := testbed.Start(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := slurm.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
	first := &hpcv1alpha1.BatchCluster{}
	if err := here(t).Client().Get(t.Context(), client.ObjectKey{Name: environment.ClusterName}, first); err != nil {
		t.Fatal(err)
	}
	cluster := &hpcv1alpha1.BatchCluster{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: first.Spec}
	cluster.Spec.Connection = hpcv1alpha1.Connection{Type: "cli", Env: map[string]string{}}
	for _, v := range slurm.Env() {
		name, value, _ := strings.Cut(v, "=")
		cluster.Spec.Connection.Env[name] = value
	}
	cluster.Spec.Staging.Directory = slurm.StagingDir
	cluster.Spec.Nodes = []hpcv1alpha1.VirtualNode{{Name: name + "-a", Partition: "a", MaxPodsPending: 1000}}
	if change != nil {
		change(slurm, cluster)
	}
	if err := here(t).Client().Create(t.Context(), cluster); err != nil {
		t.Fatal(err)
	}
	s := &site{name: name, slurm: slurm}
	if s.group, err = process.Open(t.TempDir(), process.Options{Tether: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.group.StopAll(5 * time.Second); err != nil {
			t.Error(err)
		}
		ctx, cancel := cleanup(t)
		defer cancel()
		for _, args := range [][]string{{"delete", "batchcluster", name}, {"delete", "nodes", "-l", "isthmus.sh/cluster=" + name}} {
			if out, err := here(t).KubectlCommand(ctx, args...).CombinedOutput(); err != nil {
				t.Errorf("kubectl %s: %v\n%s", strings.Join(args, " "), err, out)
			}
		}
	})
	s.spec = process.Spec{Name: "vnode-" + name, Argv: daemonArgs(t, name, filepath.Join(t.TempDir(), "pki")), Env: vnode(t).Env}
	s.start(t)
	return s
}

// daemonArgs are those of the shared daemon with a cluster, a port and
// certificates of its own.
func daemonArgs(t *testing.T, cluster, certificates string) []string {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	argv := slices.Clone(vnode(t).Argv)
	for i, arg := range argv[:len(argv)-1] {
		switch arg {
		case "--kubelet-listen":
			argv[i+1] = listen
		case "--cert-dir":
			argv[i+1] = certificates
		case "--cluster":
			argv[i+1] = cluster
		}
	}
	return argv
}

// start starts the site's daemon, again after it was stopped, and returns once
// its node is Ready.
func (s *site) start(t *testing.T) {
	t.Helper()
	began := time.Now().Add(-time.Second).UTC()
	var err error
	if s.vnode, err = s.group.Start(s.spec); err != nil {
		t.Fatal(err)
	}
	eventually(t, 2*time.Minute, "the node of "+s.name+" is Ready", func() (bool, string) {
		if !s.vnode.Alive() {
			t.Fatalf("the daemon ended:\n%s", process.Tail(s.vnode.Log, 15))
		}
		out := kubectl(t, "get", "node", s.name+"-a", "--ignore-not-found", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].lastHeartbeatTime}`)
		status, beat, _ := strings.Cut(out, " ")
		at, err := time.Parse(time.RFC3339, beat)
		return err == nil && status == "True" && !at.Before(began.Truncate(time.Second)), out + "; end of the daemon's log: " + process.Tail(s.vnode.Log, 5)
	})
}

// stop ends the daemon in order.
func (s *site) stop(t *testing.T) {
	t.Helper()
	if err := s.vnode.Stop(time.Minute); err != nil {
		t.Fatal(err)
	}
	if err := s.vnode.ExitError(); err != nil {
		t.Errorf("the daemon ended with %v:\n%s", err, process.Tail(s.vnode.Log, 15))
	}
}
