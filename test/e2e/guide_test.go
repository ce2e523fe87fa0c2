package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"sigs.k8s.io/yaml"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/fetch"
	"github.com/isthmus-hpc/isthmus/test/testbed/helm"
	"github.com/isthmus-hpc/isthmus/test/testbed/sshd"
)

// Everything that the guides tell people to run and to write is run and used
// here, on real Slurm, by those who do what the guides say: an administrator who
// sets a second cluster of the name "hpc" up, users of it, and the administrator
// who looks at it and stops it.
func TestGuides(t *testing.T) {
	if here(t).Slurm() == nil {
		t.Skip("SKIP: the guides are about Slurm, which this machine cannot run or this run was told not to")
	}
	g := readGuides(t)
	g.prepare()
	g.setUp()
	g.use()
	g.seeAndStop()
	g.move()
	g.overREST()
	g.overSSH()
	g.leave()
	for _, line := range g.left {
		t.Errorf("nobody runs %q of the guides", line)
	}
	if len(g.yamls) > 0 {
		t.Errorf("nobody uses these files of the guides: %q", g.yamls)
	}
	if argv := g.argv("controllers"); !strings.Contains(strings.Join(argv, " "), "--vnode-user ") {
		t.Errorf("the controllers run as %q", argv)
	}
}

// prepare makes the place where commands run: the checkout's folders, the
// programs in PATH, a kubeconfig whose namespace is the user's.
func (g *guide) prepare() {
	g.t.Helper()
	root, err := checkout.Root()
	if err != nil {
		g.t.Fatal(err)
	}
	helmProgram, err := helm.EnsureBuilt(g.t.Context(), g.t.Output())
	if err != nil {
		g.t.Fatal(err)
	}
	vnode := g.argv("vnode")
	flag := func(name string) string {
		for i, a := range vnode[:len(vnode)-1] {
			if a == name {
				return vnode[i+1]
			}
		}
		g.t.Fatalf("vnode runs without %s: %q", name, vnode)
		return ""
	}
	bin := filepath.Join(g.dir, "bin")
	err = os.Mkdir(bin, 0o700)
	for name, target := range map[string]string{
		"charts": filepath.Join(root, "charts"), "test": filepath.Join(root, "test"), "vnode.kubeconfig": flag("--kubeconfig"),
		"bin/kubectl": here(g.t).Kubectl, "bin/helm": helmProgram, "bin/vnode": vnode[0],
	} {
		err = errors.Join(err, os.Symlink(target, filepath.Join(g.dir, name)))
	}
	raw, rerr := os.ReadFile(here(g.t).Kubeconfig)
	config := filepath.Join(g.dir, "kubeconfig")
	if err := errors.Join(err, rerr, os.WriteFile(config, raw, 0o600)); err != nil {
		g.t.Fatal(err)
	}
	conf := ""
	for _, v := range here(g.t).Slurm().Env() {
		g.env = append(g.env, v)
		if file, ok := strings.CutPrefix(v, "SLURM_CONF="); ok {
			conf = file
		}
	}
	g.env = append(g.env, "PATH="+bin+":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", // the later one counts
		"HOME="+g.dir, "LC_ALL=C", "KUBECONFIG="+config, "address=127.0.0.1")
	g.names = []string{"/etc/slurm/slurm.conf", conf, "/shared/isthmus", filepath.Join(here(g.t).Shared, "guide"),
		"physics-svc", account.Alice, "/usr/local/bin/podrun", flag("--podrun")}
	for _, ns := range []string{"physics", "isthmus"} {
		kubectl(g.t, "create", "namespace", ns)
		g.t.Cleanup(func() { kubectlAfter(g.t, "delete", "namespace", ns, "--timeout=25s") })
	}
	if out, err := g.try("kubectl config set-context --current --namespace=physics"); err != nil {
		g.t.Fatal(out, err)
	}
	// What is made for the guides shall run on the guides' node.
	others := strings.Join(here(g.t).Nodes, " ")
	if out, err := g.try("kubectl cordon " + others); err != nil {
		g.t.Fatal(out, err)
	}
	g.t.Cleanup(func() { kubectlAfter(g.t, append([]string{"uncordon"}, here(g.t).Nodes...)...) })
}

// setUp is the administrator's first day.
func (g *guide) setUp() {
	g.t.Helper()
	// The environment's API server has what the chart brings: it goes to another.
	other, err := controlplane.Start(g.t.Context(), controlplane.Config{Dir: filepath.Join(g.t.TempDir(), "plane"), WithoutControllerManager: true})
	if err != nil {
		g.t.Fatal(err)
	}
	config := "KUBECONFIG=" + other.KubeconfigFile()
	g.run("kubectl create namespace physics", "created", config)
	g.run("helm install", "STATUS: deployed", config)
	g.rights(config)
	out, err := g.try("kubectl get deployments -n isthmus-system -o name; kubectl get crd batchclusters.hpc.isthmus.sh -o name", config)
	if err != nil || !strings.Contains(out, "isthmus-vnode-hpc") {
		g.t.Errorf("the chart made %q, %v", out, err)
	}
	g.upgrade(config)
	g.daemons(config)
	g.run("helm uninstall", "uninstalled", config)
	g.takeOver(config)
	g.run("kubectl delete --wait=false -f charts/isthmus/crds", "deleted", config)
	g.stuck(config)
	if err := other.Stop(); err != nil {
		g.t.Error(err)
	}

	g.run("install -d", "")
	g.write("hpc.yaml", g.yaml("kind: BatchCluster"))
	g.run("vnode --validate-config", "")
	g.t.Cleanup(func() {
		kubectlAfter(g.t, "delete", "node", "hpc-a100", "--ignore-not-found")
		kubectlAfter(g.t, "delete", "batchcluster", "hpc", "--ignore-not-found")
	})
	g.run("kubectl apply -f hpc.yaml", "created")
	// Beside another virtual kubelet it needs a port and directories of its own.
	g.stopVnode = g.start("vnode --cluster hpc", nil, "--kubelet-listen", freePort(g.t, "127.0.0.1:"), "--cert-dir", filepath.Join(g.dir, "pki"), "--local-state-dir", filepath.Join(g.dir, "local"))
	g.t.Cleanup(func() { // while there is one who lets pods go
		kubectlAfter(g.t, "delete", "vcjob", "--all", "-n", "physics")
		kubectlAfter(g.t, "delete", "pods", "--all", "-n", "physics", "--timeout=25s")
	})
	eventually(g.t, 2*time.Minute, "node hpc-a100 is ready and has a certificate", func() (bool, string) {
		out, err := tryKubectl(g.t, "get", "node", "hpc-a100", "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="ServingCertificate")].status}`)
		return err == nil && out == "True True", fmt.Sprint(out, err)
	})
	g.until("kubectl get batchclusters", "22.05")
	g.run("kubectl wait --for=condition=Ready", "condition met")
	g.run("kubectl describe node hpc-a100", "BatchSystemReachable")
}

// use is a user's day.
func (g *guide) use() {
	g.t.Helper()
	g.run("kubectl get nodes", "hpc-a100")
	g.run("kubectl apply -f test/examples", "created")
	g.until("kubectl get vcjob", "allreduce-worker-0")
	g.until("kubectl logs -f allreduce-worker-0", "OK")
	g.run("kubectl delete -f test/examples", "deleted")

	port := freePort(g.t, "")
	local := freePort(g.t, "")
	apply(g.t, "physics", job{Name: "patient", Replicas: 1, Script: `cd /www && echo treated >index.html && exec python3 -m http.server --bind 127.0.0.1 ` + port,
		Pod: "        volumes: [{name: www, emptyDir: {}}]", Extra: "          volumeMounts: [{name: www, mountPath: /www}]"}.yaml())
	g.env = append(g.env, "pod=patient-task-0")
	g.running()
	g.run("kubectl describe pod ", "BatchJobSubmitted")
	g.run("kubectl describe podgroup", "patient")
	g.run("kubectl exec", "\n")
	g.run("kubectl cp", "")
	host, err := os.ReadFile("/etc/hostname")
	got, gerr := os.ReadFile(filepath.Join(g.dir, "here"))
	if err := errors.Join(err, gerr); err != nil || string(got) != string(host) {
		g.t.Errorf("kubectl cp brought %q, %v", got, err)
	}
	g.names = append(g.names, " 8080", " "+local+":"+port)
	stop := g.start("kubectl port-forward", nil)
	eventually(g.t, time.Minute, "the page is there", func() (bool, string) {
		page, err := fetch.Text(g.t.Context(), "http://127.0.0.1:"+local+"/")
		return err == nil && page == "treated\n", fmt.Sprint(page, err)
	})
	stop()
	g.run("kubectl debug", "")
	eventually(g.t, time.Minute, "the added container has said who it is", func() (bool, string) {
		out, err := g.try(`kubectl logs "$pod" -c look`)
		return err == nil && strings.Contains(out, account.Alice), fmt.Sprint(out, err)
	})
}

// running waits until the patient runs.
func (g *guide) running() {
	g.t.Helper()
	eventually(g.t, 2*time.Minute, "the patient runs", func() (bool, string) {
		out, err := g.try(`kubectl get pod "$pod" -o jsonpath='{.status.containerStatuses[0].state.running.startedAt} {.status.phase} {.status.conditions}'`)
		return err == nil && strings.Contains(out, " Running ") && !strings.HasPrefix(out, " "), fmt.Sprint(out, err)
	})
}

// seeAndStop is the administrator's bad day.
func (g *guide) seeAndStop() {
	g.t.Helper()
	id := kubectl(g.t, "get", "pod", "patient-task-0", "-n", "physics", "-o", `jsonpath={.metadata.annotations.isthmus\.sh/batch-job-id}`)
	g.env = append(g.env, "job="+id)
	g.run("squeue", id)
	g.run("kubectl get pods -A", " "+id)
	g.run("scontrol requeuehold", "")
	g.run("scontrol hold", "")
	held := func(want bool) {
		g.t.Helper()
		eventually(g.t, 90*time.Second, fmt.Sprintf("the pod says that its job is held: %t", want), func() (bool, string) {
			out, err := g.try(`kubectl get pod "$pod" -o jsonpath='{.status.conditions[?(@.type=="isthmus.sh/BatchJob")].message} {.status.containerStatuses[0].state.waiting.message}'`)
			return err == nil && strings.Contains(strings.ToLower(out), "held") == want, fmt.Sprint(out, err)
		})
	}
	held(true)
	g.run("scontrol release", "")
	held(false) // Slurm starts what was requeued two minutes later
	g.run("kubectl cordon hpc-a100", "cordoned")
	g.run("kubectl uncordon hpc-a100", "uncordoned")
	g.run("scancel", "")
	eventually(g.t, 2*time.Minute, "the pod has failed as cancelled", func() (bool, string) {
		out, err := g.try(`kubectl get pod "$pod" -o jsonpath='{.status.phase} {.status.conditions[?(@.type=="isthmus.sh/BatchJob")].reason}'`)
		return err == nil && out == "Failed Cancelled", fmt.Sprint(out, err)
	})
	g.run("kubectl get batchcluster hpc", "hpc-a100")
}

// overREST changes the cluster over to slurmrestd.
func (g *guide) overREST() {
	g.t.Helper()
	who, err := user.Lookup(account.Rest)
	if err != nil {
		g.t.Fatal(err)
	}
	uid, uerr := strconv.Atoi(who.Uid)
	gid, gerr := strconv.Atoi(who.Gid)
	dir := filepath.Join(here(g.t).Shared, "guide-rest") // of that user's own, short enough for a socket's name
	key, kerr := os.ReadFile(here(g.t).Slurm().TokenKeyFile())
	if err := errors.Join(uerr, gerr, kerr, os.Mkdir(dir, 0o700), os.Chown(dir, uid, gid), os.WriteFile(filepath.Join(g.dir, "jwt_hs256.key"), key, 0o600)); err != nil {
		g.t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	g.names = append(g.names, "unix:/run/slurmrestd.socket", "unix:"+socket, "https://slurm.example:6820", "unix://"+socket)
	g.start("SLURM_JWT=daemon slurmrestd", func(cmd *exec.Cmd) {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)} //nolint:gosec // ids of an account of this machine
		cmd.Dir = "/"
	})
	eventually(g.t, time.Minute, "slurmrestd listens", func() (bool, string) {
		conn, err := (&net.Dialer{}).DialContext(g.t.Context(), "unix", socket)
		if err == nil {
			err = conn.Close()
		}
		return err == nil, fmt.Sprint(err)
	})
	g.run("kubectl create secret generic slurm-jwt", "created")
	g.connect(g.yaml("type: rest"), func(connection map[string]any) {
		delete(connection["rest"].(map[string]any), "caFile") // there is no TLS on a socket
	})
	g.version("(REST v0.0.38)")
}

// overSSH changes the cluster over to a login host.
func (g *guide) overSSH() {
	g.t.Helper()
	if err := sshd.EnsureInstalled(g.t.Context(), g.t.Output()); err != nil {
		g.t.Fatal(err)
	}
	server, err := sshd.Start(g.t.Context(), sshd.Config{})
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() {
		if err := server.Stop(); err != nil {
			g.t.Error(err)
		}
	})
	key, err := sshd.NewKey(sshd.ED25519)
	if err != nil {
		g.t.Fatal(err)
	}
	host, port, err := net.SplitHostPort(server.Address)
	known := filepath.Join(g.dir, "known_hosts")
	// A person's own settings; the name of the guide leads to the test's host.
	config := fmt.Sprintf("Host *\n HostName %s\n Port %s\n IdentityFile %s\n UserKnownHostsFile %s\n", host, port, filepath.Join(g.dir, "id_ed25519"), known)
	wrapper := "#!/bin/sh\nexec /usr/bin/ssh -F " + filepath.Join(g.dir, "ssh_config") + " \"$@\"\n"
	if err := errors.Join(err, server.Authorize(sshd.Dash, key.Public()), os.WriteFile(filepath.Join(g.dir, "id_ed25519"), key.PEM, 0o600),
		os.WriteFile(known, []byte(server.KnownHosts()), 0o600), os.WriteFile(filepath.Join(g.dir, "ssh_config"), []byte(config), 0o600),
		os.WriteFile(filepath.Join(g.dir, "bin", "ssh"), []byte(wrapper), 0o700)); err != nil { //nolint:gosec // a program
		g.t.Fatal(err)
	}
	g.run("kubectl create secret generic hpc-ssh", "created")
	g.connect(g.yaml("type: ssh"), func(connection map[string]any) {
		ssh := connection["ssh"].(map[string]any)
		ssh["hosts"], ssh["proxyJump"] = []string{server.Address}, []string{server.Address}
		ssh["user"], ssh["knownHosts"] = sshd.Dash, server.KnownHosts()
	})
	g.version("22.05.8\n")
	eventually(g.t, time.Minute, "the daemon has logged in", func() (bool, string) {
		log := server.Log()
		return strings.Contains(log, "Accepted publickey for "+sshd.Dash), log[max(0, len(log)-300):]
	})
	g.names = append(g.names, "/run/isthmus/hpc.socket", filepath.Join(here(g.t).Shared, "guide.ssh"), "isthmus@", sshd.Dash+"@")
	g.run("ssh -M", "")
	g.run("ssh -S /run/isthmus/hpc.socket -O check", "Master running")
	g.run("ssh -S /run/isthmus/hpc.socket -O exit", "Exit request sent")
}

// connect puts the connection of a guide's fragment into hpc.yaml, changed to
// what this machine has, and applies it.
func (g *guide) connect(fragment string, change func(map[string]any)) {
	g.t.Helper()
	var cluster, add map[string]any
	if err := errors.Join(yaml.UnmarshalStrict([]byte(g.read("hpc.yaml")), &cluster), yaml.UnmarshalStrict([]byte(fragment), &add)); err != nil {
		g.t.Fatalf("%v in %s", err, fragment)
	}
	spec := cluster["spec"].(map[string]any)
	old := spec["connection"].(map[string]any)
	connection := add["connection"].(map[string]any)
	change(connection)
	if connection["type"] != "rest" { // which runs no commands
		maps.Copy(connection, map[string]any{"env": old["env"]})
	}
	spec["connection"] = connection
	text, err := yaml.Marshal(cluster)
	if err != nil {
		g.t.Fatal(err)
	}
	g.write("changed.yaml", string(text))
	for _, line := range []string{"vnode --validate-config --config changed.yaml", "kubectl apply -f changed.yaml"} {
		if out, err := g.try(line); err != nil {
			g.t.Fatal(out, err)
		}
	}
}

// version waits until the cluster is reached, and its version ends so.
func (g *guide) version(ends string) {
	g.t.Helper()
	eventually(g.t, 2*time.Minute, "the version ends with "+ends, func() (bool, string) {
		out, err := g.try(`kubectl get batchcluster hpc -o jsonpath='{.status.conditions[?(@.type=="Reachable")].status} {.status.version}{"\n"}'`)
		return err == nil && strings.HasPrefix(out, "True ") && strings.HasSuffix(strings.TrimSpace(out), strings.TrimSpace(ends)), fmt.Sprint(out, err)
	})
}

func (g *guide) read(name string) string {
	g.t.Helper()
	raw, err := os.ReadFile(filepath.Join(g.dir, name))
	if err != nil {
		g.t.Fatal(err)
	}
	return string(raw)
}

func (g *guide) write(name, text string) {
	g.t.Helper()
	if err := os.WriteFile(filepath.Join(g.dir, name), []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

// freePort is a port of loopback that nobody has, behind prefix.
func freePort(t *testing.T, prefix string) string {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return prefix + port
}
