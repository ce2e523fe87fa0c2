package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm"
	"github.com/isthmus-hpc/isthmus/test/testbed/slurm/slurmtest"
)

// meet serves a member's own name on one port and asks every member, itself
// included, for theirs by host name.
const meet = `
import os, socket, sys, threading, time
me, size = os.environ["SLURM_PROCID"], 4
server = socket.create_server(("0.0.0.0", 7000))
def serve():
    while True:
        conn, _ = server.accept()
        conn.sendall(me.encode())
        conn.close()
threading.Thread(target=serve, daemon=True).start()
seen = []
for n in range(size):
    name, end = "m-%d-host.sub" % n, time.time() + 60
    while True:
        try:
            with socket.create_connection((name, 7000), timeout=5) as c:
                got = c.recv(10).decode()
            if got:
                break
        except OSError as e:
            if time.time() > end:
                sys.exit("%s: %s" % (name, e))
            time.sleep(0.1)
    seen.append("%d=%s@%s" % (n, got, socket.gethostbyname(name)))
print("seen", " ".join(seen), flush=True)
# All have asked everybody before anybody goes.
open("seen-" + me, "w").close()
while len([f for f in os.listdir(".") if f.startswith("seen-")]) < size:
    time.sleep(0.1)
`

// TestNetworks: on hosts with a network and an address of their own each, the
// members of a gang find each other by name: all of them use one port. Streams
// reach them there.
func TestNetworks(t *testing.T) {
	cluster := slurmtest.Start(t, slurm.Config{
		Name: "network", Networks: true,
		Hosts:      []slurm.Hosts{{Prefix: "far", Count: 4, CPUs: 2, MemoryMiB: 4000}},
		Partitions: []slurm.Partition{{Name: "all", Hosts: []string{"far[1-4]"}, Default: true}},
	})
	t.Run("names", func(t *testing.T) { networkNames(t, cluster) })
	t.Run("addresses", func(t *testing.T) { networkAddresses(t, cluster) })
	t.Run("streams", func(t *testing.T) { networkStreams(t, cluster) })
}

// meetAddresses is a member that knows the others from its environment and its command
// line alone: no name resolves. The first listens, and the others come.
const meetAddresses = `
import json, os, socket, sys, time
tf = json.loads(os.environ["TF_CONFIG"])
hosts = tf["cluster"]["worker"]
if [h.split(":")[0] for h in hosts] != os.environ["VC_WORKER_HOSTS"].split(","):
    sys.exit("TF_CONFIG has %s and VC_WORKER_HOSTS %s" % (hosts, os.environ["VC_WORKER_HOSTS"]))
first, port = hosts[0].split(":")
if os.environ["MASTER_ADDR"] != first or sys.argv[1] != "--address=%s:%s" % (first, port):
    sys.exit("the first is %s, MASTER_ADDR %s, the command %s" % (first, os.environ["MASTER_ADDR"], sys.argv[1]))
me = int(os.environ["SLURM_PROCID"])
if me == 0:
    server, came = socket.create_server((first, int(port))), []
    server.settimeout(120)
    while len(came) < len(hosts) - 1:
        conn, (ip, _) = server.accept()
        came.append(ip)
        conn.sendall(b"welcome")
        conn.close()
    print("came", " ".join(sorted(came)), flush=True)
else:
    end = time.time() + 120
    while True:
        try:
            with socket.create_connection((first, int(port)), timeout=5) as c:
                if c.recv(10):
                    break
        except OSError as e:
            if time.time() > end:
                sys.exit("%s: %s" % (first, e))
            time.sleep(0.1)
    print("welcome", flush=True)
`

// networkAddresses: where compute hosts allow no user namespaces, and so no hosts file,
// members find each other by what the job plugins tell them, as addresses.
func networkAddresses(t *testing.T, cluster *slurm.Cluster) {
	b := &slurmBench{bench: newQuietBench(t), cluster: cluster}
	b.args = []string{"--no-namespaces"}
	m := one(corev1.Container{Name: "main", Command: []string{"python3", "-c", meetAddresses, "--address=m-0-host.sub:2222"}})
	var hosts, named []string
	for rank := range 4 {
		hosts, named = append(hosts, fmt.Sprintf("m-%d-host.sub", rank)), append(named, fmt.Sprintf(`"m-%d-host.sub:2222"`, rank))
	}
	m.env = map[string][]manifest.EnvVar{"main": {
		{Name: "TF_CONFIG", Value: []byte(`{"cluster":{"worker":[` + strings.Join(named, ",") + `]},"task":{"type":"worker","index":0}}`)},
		{Name: "VC_WORKER_HOSTS", Value: []byte(strings.Join(hosts, ","))}, {Name: "MASTER_ADDR", Value: []byte("m-0-host.sub")},
	}}
	b.stage(m, m, m, m)
	b.submit(manifest.Component{Tasks: 4, CPUs: 2})
	if e := b.end(0); e.ExitCode != 0 {
		t.Errorf("end %+v", e)
	}
	var others []string
	for rank := range 4 {
		s := b.final(rank, manifest.PhaseSucceeded)
		if rank > 0 {
			others = append(others, s.HostIP)
		}
	}
	slices.Sort(others)
	if got, want := strings.TrimSpace(b.logs(0, "main")), "came "+strings.Join(others, " "); got != want {
		t.Errorf("the first says %q, want %q", got, want)
	}
}

func networkNames(t *testing.T, cluster *slurm.Cluster) {
	b := &slurmBench{bench: newQuietBench(t), cluster: cluster}
	m := one(corev1.Container{Name: "main", Command: []string{"python3", "-c", meet}, WorkingDir: b.file("")})
	b.stage(m, m, m, m)
	b.submit(manifest.Component{Tasks: 4, CPUs: 2}) // a whole host each
	if e := b.end(0); e.ExitCode != 0 {
		t.Errorf("end %+v", e)
	}
	addresses := map[string]bool{}
	var want []string
	for rank := range 4 {
		s := b.final(rank, manifest.PhaseSucceeded)
		if s.HostIP != cluster.Address(s.Host) || !strings.HasPrefix(s.HostIP, "10.") {
			t.Errorf("rank %d: address %s of host %s, want %s", rank, s.HostIP, s.Host, cluster.Address(s.Host))
		}
		addresses[s.HostIP] = true
		want = append(want, fmt.Sprintf("%d=%d@%s", rank, rank, s.HostIP))
	}
	if len(addresses) != 4 {
		t.Errorf("the members have the addresses %v, want four", addresses)
	}
	for rank := range 4 {
		if log := strings.TrimSpace(b.logs(rank, "main")); log != "seen "+strings.Join(want, " ") {
			t.Errorf("rank %d: %q, want %q", rank, log, want)
		}
	}
}
