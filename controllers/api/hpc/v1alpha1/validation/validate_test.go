package validation_test

import (
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"
)

// all serves everything there is.
var all = validation.Served{
	Types:    map[string][]string{"slurm": {"cli", "ssh", "rest"}, "pbs": {"cli", "ssh"}, "local": {"cli"}},
	Runtimes: []hpc.Runtime{hpc.RuntimeHost, hpc.RuntimeApptainer},
}

const base = `
apiVersion: hpc.isthmus.sh/v1alpha1
kind: BatchCluster
metadata: {name: hpc}
spec:
  type: slurm
  accounts: [{namespaceSelector: {}, user: alice}]
  staging: {directory: "/shared/{user}/isthmus"}
  nodes: [{name: hpc-a100, partition: a100}]
`

func decode(t *testing.T) *hpc.BatchCluster {
	t.Helper()
	c, err := validation.Decode([]byte(base))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func ssh(c *hpc.BatchCluster) *hpc.SSHConnection {
	if c.Spec.Connection.SSH == nil {
		c.Spec.Connection = hpc.Connection{Type: "ssh", SSH: &hpc.SSHConnection{
			Hosts: []string{"login1", "login2:2222"}, Become: "login", KeyFile: "/keys", KnownHosts: "login1 ssh-ed25519 AAAA",
		}}
	}
	return c.Spec.Connection.SSH
}

func rest(c *hpc.BatchCluster) *hpc.RESTConnection {
	if c.Spec.Connection.REST == nil {
		c.Spec.Connection = hpc.Connection{Type: "rest", REST: &hpc.RESTConnection{URL: "https://slurm:6820", TokenFile: "/token"}}
	}
	return c.Spec.Connection.REST
}

func local(c *hpc.BatchCluster) *hpc.LocalPartition {
	c.Spec.Type, c.Spec.Nodes = "local", nil
	c.Spec.Local = &hpc.Local{Partitions: []hpc.LocalPartition{{Name: "main", Hosts: 1, CPUs: 2, MemoryMiB: 100}}}
	return &c.Spec.Local.Partitions[0]
}

func minus() *metav1.Duration { return &metav1.Duration{Duration: -time.Second} }

type mistake struct {
	field string
	make  func(*hpc.BatchCluster)
}

// mistakes has at least one for every setting; TestEverySettingIsChecked sees
// to that.
var mistakes = []mistake{
	{"metadata.name", func(c *hpc.BatchCluster) { c.Name = "" }},
	{"metadata.name", func(c *hpc.BatchCluster) { c.Name = "Upper" }},
	{"spec.type", func(c *hpc.BatchCluster) { c.Spec.Type = "lsf" }},
	{"spec.type", func(c *hpc.BatchCluster) { c.Spec.Type = "torque" }}, // known, not served by this build
	{"spec.connection.type", func(c *hpc.BatchCluster) { c.Spec.Connection.Type = "telnet" }},
	{"spec.connection.env[1A]", func(c *hpc.BatchCluster) { c.Spec.Connection.Env = map[string]string{"1A": ""} }},
	{"spec.connection.env[A]", func(c *hpc.BatchCluster) { c.Spec.Connection.Env = map[string]string{"A": "x\ny"} }},
	{"spec.connection.federation", func(c *hpc.BatchCluster) { c.Spec.Connection.Federation = "-a" }},
	{"spec.connection.federation", func(c *hpc.BatchCluster) { c.Spec.Type = "local"; c.Spec.Connection.Federation = "east" }},
	{"spec.connection.ssh", func(c *hpc.BatchCluster) { c.Spec.Connection.Type = "ssh" }},
	{"spec.connection.ssh", func(c *hpc.BatchCluster) { ssh(c); c.Spec.Connection.Type = "cli" }},
	{"spec.connection.ssh.hosts", func(c *hpc.BatchCluster) { ssh(c).Hosts = nil }},
	{"spec.connection.ssh.hosts[0]", func(c *hpc.BatchCluster) { ssh(c).Hosts = []string{"-oProxyCommand=x"} }},
	{"spec.connection.ssh.hosts[0]", func(c *hpc.BatchCluster) { ssh(c).Hosts = []string{"a:99999"} }},
	{"spec.connection.ssh.user", func(c *hpc.BatchCluster) { ssh(c).User = "Root User" }},
	{"spec.connection.ssh.user", func(c *hpc.BatchCluster) { ssh(c).User = "svc" }},
	{"spec.connection.ssh.user", func(c *hpc.BatchCluster) { ssh(c).User, ssh(c).Become = "root", "sudo" }},
	{"spec.connection.ssh.user", func(c *hpc.BatchCluster) { ssh(c).Become = "sudo" }},
	{"spec.connection.ssh.become", func(c *hpc.BatchCluster) { ssh(c).Become = "su" }},
	{"spec.connection.ssh.keyFile", func(c *hpc.BatchCluster) { ssh(c).KeyFile = "" }},
	{"spec.connection.ssh.keyFile", func(c *hpc.BatchCluster) { ssh(c).KeyFile = "id_rsa" }},
	{"spec.connection.ssh.keySecretRef", func(c *hpc.BatchCluster) { ssh(c).KeySecretRef = &hpc.KeySelector{Name: "keys"} }},
	{"spec.connection.ssh.keySecretRef.name", func(c *hpc.BatchCluster) { ssh(c).KeySecretRef = &hpc.KeySelector{} }},
	{"spec.connection.ssh.keySecretRef.namespace", func(c *hpc.BatchCluster) { ssh(c).KeySecretRef = &hpc.KeySelector{Name: "a", Namespace: "A/B"} }},
	{"spec.connection.ssh.keySecretRef.key", func(c *hpc.BatchCluster) { ssh(c).KeySecretRef = &hpc.KeySelector{Name: "a", Key: "../x"} }},
	{"spec.connection.ssh.certificateFile", func(c *hpc.BatchCluster) { ssh(c).CertificateFile = "cert" }},
	{"spec.connection.ssh.agentSocket", func(c *hpc.BatchCluster) { ssh(c).AgentSocket = "sock" }},
	{"spec.connection.ssh.controlPath", func(c *hpc.BatchCluster) { ssh(c).ControlPath = "~/x" }},
	{"spec.connection.ssh.knownHosts", func(c *hpc.BatchCluster) { ssh(c).KnownHosts = "" }},
	{"spec.connection.ssh.knownHosts", func(c *hpc.BatchCluster) { ssh(c).KnownHosts = "# nothing\n" }},
	{"spec.connection.ssh.knownHosts", func(c *hpc.BatchCluster) { ssh(c).KnownHostsFile = "/known" }},
	{"spec.connection.ssh.knownHostsFile", func(c *hpc.BatchCluster) { ssh(c).KnownHosts, c.Spec.Connection.SSH.KnownHostsFile = "", "known" }},
	{"spec.connection.ssh.knownHostsSecretRef.name", func(c *hpc.BatchCluster) {
		ssh(c).KnownHosts, c.Spec.Connection.SSH.KnownHostsSecretRef = "", &hpc.KeySelector{Name: "X"}
	}},
	{"spec.connection.ssh.knownHostsSecretRef.namespace", func(c *hpc.BatchCluster) { ssh(c).KnownHostsSecretRef = &hpc.KeySelector{Name: "a", Namespace: "."} }},
	{"spec.connection.ssh.knownHostsSecretRef.key", func(c *hpc.BatchCluster) { ssh(c).KnownHostsSecretRef = &hpc.KeySelector{Name: "a", Key: "/"} }},
	{"spec.connection.ssh.proxyJump[0]", func(c *hpc.BatchCluster) { ssh(c).ProxyJump = []string{"-b@jump"} }},
	{"spec.connection.ssh.proxyJump[0]", func(c *hpc.BatchCluster) { ssh(c).ProxyJump = []string{"u@-x"} }},
	{"spec.connection.ssh.proxyJump[0]", func(c *hpc.BatchCluster) { ssh(c).ProxyJump = []string{"root@jump"} }},
	{"spec.connection.ssh.maxSessions", func(c *hpc.BatchCluster) { ssh(c).MaxSessions = 1 }},
	{"spec.connection.ssh.keepalive", func(c *hpc.BatchCluster) { ssh(c).Keepalive = minus() }},
	{"spec.connection.ssh.connectTimeout", func(c *hpc.BatchCluster) { ssh(c).ConnectTimeout = minus() }},
	{"spec.connection.rest", func(c *hpc.BatchCluster) { c.Spec.Connection.Type = "rest" }},
	{"spec.connection.rest", func(c *hpc.BatchCluster) { rest(c); c.Spec.Connection.Type = "cli" }},
	{"spec.connection.rest.url", func(c *hpc.BatchCluster) { rest(c).URL = "http://slurm:6820" }},
	{"spec.connection.rest.url", func(c *hpc.BatchCluster) { rest(c).URL = "https://u:p@slurm" }},
	{"spec.connection.rest.url", func(c *hpc.BatchCluster) { rest(c).URL = "unix://relative" }},
	{"spec.connection.rest.url", func(c *hpc.BatchCluster) { rest(c).URL = "ftp://x" }},
	{"spec.connection.rest.caFile", func(c *hpc.BatchCluster) { rest(c).CAFile = "ca" }},
	{"spec.connection.rest.caFile", func(c *hpc.BatchCluster) { rest(c).URL, c.Spec.Connection.REST.CAFile = "unix:///s", "/ca" }},
	{"spec.connection.rest.tokenFile", func(c *hpc.BatchCluster) { rest(c).TokenFile = "" }},
	{"spec.connection.rest.tokenFile", func(c *hpc.BatchCluster) { rest(c).JWTKeyFile = "/key" }},
	{"spec.connection.rest.tokenFile", func(c *hpc.BatchCluster) { rest(c).TokenFile = "token" }},
	{"spec.connection.rest.tokenSecretRef.name", func(c *hpc.BatchCluster) { rest(c).TokenSecretRef = &hpc.KeySelector{} }},
	{"spec.connection.rest.tokenSecretRef.namespace", func(c *hpc.BatchCluster) { rest(c).TokenSecretRef = &hpc.KeySelector{Name: "a", Namespace: "A"} }},
	{"spec.connection.rest.tokenSecretRef.key", func(c *hpc.BatchCluster) { rest(c).TokenSecretRef = &hpc.KeySelector{Name: "a", Key: "a/b"} }},
	{"spec.connection.rest.jwtKeyFile", func(c *hpc.BatchCluster) { rest(c).JWTKeyFile = "key" }},
	{"spec.connection.rest.jwtKeySecretRef.name", func(c *hpc.BatchCluster) { rest(c).JWTKeySecretRef = &hpc.KeySelector{} }},
	{"spec.connection.rest.jwtKeySecretRef.namespace", func(c *hpc.BatchCluster) { rest(c).JWTKeySecretRef = &hpc.KeySelector{Name: "a", Namespace: "A"} }},
	{"spec.connection.rest.jwtKeySecretRef.key", func(c *hpc.BatchCluster) { rest(c).JWTKeySecretRef = &hpc.KeySelector{Name: "a", Key: "a b"} }},
	{"spec.connection.rest.tokenLifetime", func(c *hpc.BatchCluster) { rest(c).TokenLifetime = &metav1.Duration{Duration: 2 * time.Hour} }},
	{"spec.nodes[1].name", func(c *hpc.BatchCluster) { c.Spec.Nodes = append(c.Spec.Nodes, c.Spec.Nodes[0]) }},
	{"spec.nodes[0].name", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].Name = strings.Repeat("a", 64) }},
	{"spec.nodes[0].partition", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].Partition = "" }},
	{"spec.nodes[0].partition", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].Partition = "--uid=0" }},
	{"spec.nodes[0].constraint", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].Constraint = "a b" }},
	{"spec.nodes[0].qos", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].QOS = "a,b" }},
	{"spec.nodes[0].reservation", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].Reservation = "a\n" }},
	{"spec.nodes[0].labels[a b]", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].Labels = map[string]string{"a b": ""} }},
	{"spec.nodes[0].labels[isthmus.sh/cluster]", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].Labels = map[string]string{"isthmus.sh/cluster": "x"} }},
	{"spec.nodes[0].taints[0]", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].Taints = []corev1.Taint{{Effect: "NoSchedule"}} }},
	{"spec.nodes[0].taints[0].key", func(c *hpc.BatchCluster) {
		c.Spec.Nodes[0].Taints = []corev1.Taint{{Key: "isthmus.sh/x", Effect: "NoSchedule"}}
	}},
	{"spec.nodes[0].taints[0].effect", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].Taints = []corev1.Taint{{Key: "a", Effect: "NoExecute"}} }},
	{"spec.nodes[0].foreignUse", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].ForeignUse = "ignore" }},
	{"spec.nodes[0].maxPodsPending", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].MaxPodsPending = -1 }},
	{"spec.nodes[0].gpuResources[a100]", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].GPUResources = map[string]string{"a100": "gpu"} }},
	{"spec.nodes[0].includeHosts[0]", func(c *hpc.BatchCluster) { c.Spec.Nodes[0].IncludeHosts = []string{"a b"} }},
	{"spec.nodes[0].excludeHosts[0]", func(c *hpc.BatchCluster) {
		c.Spec.Nodes[0].IncludeHosts, c.Spec.Nodes[0].ExcludeHosts = []string{"a"}, []string{"a"}
	}},
	{"spec.accounts", func(c *hpc.BatchCluster) { c.Spec.Accounts = nil }},
	{"spec.accounts[0].namespaceSelector", func(c *hpc.BatchCluster) {
		c.Spec.Accounts[0].NamespaceSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Odd"}}
	}},
	{"spec.accounts[0].user", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].User = "root" }},
	{"spec.accounts[0].user", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].User = "" }},
	{"spec.accounts[0].user", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].User = "1234" }},
	{"spec.accounts[0].user", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].User = "-u" }},
	{"spec.accounts[0].user", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].User = "../alice" }},
	{"spec.accounts[0].user", func(c *hpc.BatchCluster) { c.Spec.Type, c.Spec.Accounts[0].User = "pbs", "alice@site.example" }},
	{"spec.accounts[0].user", func(c *hpc.BatchCluster) { c.Spec.Type, c.Spec.Accounts[0].User = "torque", "alice@site.example" }},
	{"spec.accounts[0].account", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].Account = "a b" }},
	{"spec.accounts[0].qos", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].QOS = "-q" }},
	{"spec.accounts[0].partitions[0]", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].Partitions = []string{""} }},
	{"spec.accounts[0].allowedQOS[0]", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].AllowedQOS = []string{"a=b"} }},
	{"spec.accounts[0].allowedAccounts[0]", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].AllowedAccounts = []string{"-A"} }},
	{"spec.accounts[0].maxWalltime", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].MaxWalltime = &metav1.Duration{} }},
	{"spec.accounts[0].allowEnv[0]", func(c *hpc.BatchCluster) { c.Spec.Accounts[0].AllowEnv = []string{"A=B"} }},
	{"spec.staging.directory", func(c *hpc.BatchCluster) { c.Spec.Staging.Directory = "" }},
	{"spec.staging.directory", func(c *hpc.BatchCluster) { c.Spec.Staging.Directory = "/a/../b" }},
	{"spec.staging.directory", func(c *hpc.BatchCluster) { c.Spec.Staging.Directory = "/a/{group}" }},
	{"spec.staging.podrun", func(c *hpc.BatchCluster) { c.Spec.Staging.Podrun = "podrun" }},
	{"spec.staging.retention", func(c *hpc.BatchCluster) { c.Spec.Staging.Retention = minus() }},
	{"spec.runtimes[0]", func(c *hpc.BatchCluster) { c.Spec.Runtimes = []hpc.Runtime{"docker"} }},
	{"spec.runtimes[0]", func(c *hpc.BatchCluster) { c.Spec.Runtimes = []hpc.Runtime{hpc.RuntimeEnroot} }}, // known, not served
	{"spec.runtimes[1]", func(c *hpc.BatchCluster) { c.Spec.Runtimes = []hpc.Runtime{hpc.RuntimeHost, hpc.RuntimeHost} }},
	{"spec.images.directory", func(c *hpc.BatchCluster) { c.Spec.Images.Directory = "images" }},
	{"spec.streams", func(c *hpc.BatchCluster) { c.Spec.Streams = "ssh" }},
	{"spec.streams", func(c *hpc.BatchCluster) { c.Spec.Type, c.Spec.Streams = "pbs", "batch" }},
	{"spec.reservations", func(c *hpc.BatchCluster) { c.Spec.Reservations = "slurm" }},
	{"spec.reservations", func(c *hpc.BatchCluster) { c.Spec.Type, c.Spec.Reservations = "pbs", "batch" }},
	{"spec.reservations", func(c *hpc.BatchCluster) { rest(c); c.Spec.Reservations = "batch" }},
	{"spec.images.pull", func(c *hpc.BatchCluster) { c.Spec.Images.Pull = "always" }},
	{"spec.images.archives[0]", func(c *hpc.BatchCluster) { c.Spec.Images.Archives = []string{"x"} }},
	{"spec.images.mirrors[0].registry", func(c *hpc.BatchCluster) {
		c.Spec.Images.Mirrors = []hpc.ImageMirror{{Registry: "https://docker.io", Endpoint: "m"}}
	}},
	{"spec.images.mirrors[0].endpoint", func(c *hpc.BatchCluster) {
		c.Spec.Images.Mirrors = []hpc.ImageMirror{{Registry: "docker.io", Endpoint: "m/../x"}}
	}},
	{"spec.images.caFile", func(c *hpc.BatchCluster) { c.Spec.Images.CAFile = "ca" }},
	{"spec.images.retention", func(c *hpc.BatchCluster) { c.Spec.Images.Retention = &metav1.Duration{Duration: time.Hour} }},
	{"spec.images.retention", func(c *hpc.BatchCluster) { c.Spec.Images.Retention = &metav1.Duration{Duration: -time.Hour} }},
	{"spec.images.maxSize", func(c *hpc.BatchCluster) { c.Spec.Images.MaxSize = new(resource.Quantity) }},
	{"spec.images.insecure[0]", func(c *hpc.BatchCluster) { c.Spec.Images.Insecure = []string{"http://x"} }},
	{"spec.hostPaths[0]", func(c *hpc.BatchCluster) { c.Spec.HostPaths = []string{"data"} }},
	{"spec.hostPaths[0]", func(c *hpc.BatchCluster) { c.Spec.HostPaths = []string{"/home/{user}"} }},
	{"spec.volumeClasses[0].storageClassName", func(c *hpc.BatchCluster) {
		c.Spec.VolumeClasses = []hpc.VolumeClass{{StorageClassName: "A", Path: "/a"}}
	}},
	{"spec.volumeClasses[0].selector", func(c *hpc.BatchCluster) {
		c.Spec.VolumeClasses = []hpc.VolumeClass{{Path: "/a", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a b": ""}}}}
	}},
	{"spec.volumeClasses[0].path", func(c *hpc.BatchCluster) { c.Spec.VolumeClasses = []hpc.VolumeClass{{Path: "/a/{volume}"}} }},
	{"spec.walltime.default", func(c *hpc.BatchCluster) { c.Spec.Walltime.Default = minus() }},
	{"spec.walltime.default", func(c *hpc.BatchCluster) {
		c.Spec.Walltime.Default, c.Spec.Walltime.Max = &metav1.Duration{Duration: 2}, &metav1.Duration{Duration: 1}
	}},
	{"spec.walltime.max", func(c *hpc.BatchCluster) { c.Spec.Walltime.Max = minus() }},
	{"spec.walltime.estimates.limit", func(c *hpc.BatchCluster) { c.Spec.Walltime.Estimates.Limit = "all" }},
	{"spec.walltime.estimates.marginPercent", func(c *hpc.BatchCluster) { c.Spec.Walltime.Estimates.MarginPercent = new(int32(1001)) }},
	{"spec.walltime.estimates.minMargin", func(c *hpc.BatchCluster) { c.Spec.Walltime.Estimates.MinMargin = minus() }},
	{"spec.walltime.grace", func(c *hpc.BatchCluster) { c.Spec.Walltime.Grace = minus() }},
	{"spec.poll.tick", func(c *hpc.BatchCluster) { c.Spec.Poll.Tick = &metav1.Duration{Duration: time.Millisecond} }},
	{"spec.poll.idle", func(c *hpc.BatchCluster) { c.Spec.Poll.Idle = &metav1.Duration{Duration: 2 * time.Hour} }},
	{"spec.local", func(c *hpc.BatchCluster) { c.Spec.Local = &hpc.Local{} }},
	{"spec.local.partitions", func(c *hpc.BatchCluster) { local(c); c.Spec.Local = nil }},
	{"spec.local.partitions[0].name", func(c *hpc.BatchCluster) { local(c).Name = "A" }},
	{"spec.local.partitions[0].hosts", func(c *hpc.BatchCluster) { local(c).Hosts = 0 }},
	{"spec.local.partitions[0].cpus", func(c *hpc.BatchCluster) { local(c).CPUs = 0 }},
	{"spec.local.partitions[0].memoryMiB", func(c *hpc.BatchCluster) { local(c).MemoryMiB = -1 }},
	{"spec.local.partitions[0].gpus", func(c *hpc.BatchCluster) { local(c).GPUs = -1 }},
	{"spec.local.partitions[0].gpuType", func(c *hpc.BatchCluster) { local(c).GPUType = "a100" }},
	{"spec.nodes[0].partition", func(c *hpc.BatchCluster) {
		local(c)
		c.Spec.Nodes = []hpc.VirtualNode{{Name: "n", Partition: "other", MaxPodsPending: 1}}
	}},
}

func TestMistakes(t *testing.T) {
	for _, m := range mistakes {
		t.Run(m.field, func(t *testing.T) {
			c := decode(t)
			m.make(c)
			errs := validation.BatchCluster(c, all)
			for _, e := range errs {
				if e.Field == m.field {
					return
				}
			}
			t.Errorf("no mistake there, but %v", errs)
		})
	}
}

func TestValid(t *testing.T) {
	for name, change := range map[string]func(*hpc.BatchCluster){
		"base": func(*hpc.BatchCluster) {},
		"ssh":  func(c *hpc.BatchCluster) { ssh(c).ProxyJump = []string{"jump@gate:22", "inner"} },
		"sudo": func(c *hpc.BatchCluster) { ssh(c).User, c.Spec.Connection.SSH.Become = "svc", "sudo" },
		"rest": func(c *hpc.BatchCluster) { rest(c).CAFile = "/ca.crt" },
		"rest on a socket, files by ssh": func(c *hpc.BatchCluster) {
			s := ssh(c)
			rest(c).URL = "unix:///run/slurmrestd.sock"
			c.Spec.Connection.Type, c.Spec.Connection.SSH = "rest", s
		},
		"rest on loopback": func(c *hpc.BatchCluster) { rest(c).URL = "http://[::1]:6820" },
		"local":            func(c *hpc.BatchCluster) { local(c) },
		"more": func(c *hpc.BatchCluster) {
			c.Spec.Nodes[0].Constraint = "[rack1|rack2]&gpu*4"
			c.Spec.Nodes[0].GPUResources = map[string]string{"a100": "nvidia.com/gpu", "mi250": "amd.com/gpu"}
			c.Spec.Accounts[0].AllowEnv = []string{"LD_LIBRARY_PATH", "NCCL_*", "*"}
			c.Spec.Images.Mirrors = []hpc.ImageMirror{{Registry: "docker.io", Endpoint: "mirror:5000/docker"}}
			c.Spec.VolumeClasses = []hpc.VolumeClass{{StorageClassName: "lustre", Path: "/lustre/{user}/{namespace}-{claim}"}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := decode(t)
			change(c)
			if errs := validation.BatchCluster(c, all); len(errs) > 0 {
				t.Error(errs.ToAggregate())
			}
		})
	}
}

// free are the settings that every value is fine for.
var free = []string{
	"spec.volumeClasses.readOnly", "spec.accounts.serviceAccountTokens",
	// Their own types check these.
	"spec.nodes.taints.key", "spec.nodes.taints.value", "spec.nodes.taints.effect", "spec.nodes.taints.timeAdded",
	"spec.accounts.namespaceSelector.matchLabels", "spec.accounts.namespaceSelector.matchExpressions",
	"spec.volumeClasses.selector.matchLabels", "spec.volumeClasses.selector.matchExpressions",
}

// A setting that is added to the type without a check fails here.
func TestEverySettingIsChecked(t *testing.T) {
	covered := map[string]bool{}
	index := regexp.MustCompile(`\[[^]]*\]`)
	for _, m := range mistakes {
		covered[index.ReplaceAllString(m.field, "")] = true
	}
	var walk func(reflect.Type, string)
	walk = func(typ reflect.Type, at string) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		value := typ == reflect.TypeFor[metav1.Duration]() || typ == reflect.TypeFor[resource.Quantity]()
		if slices.Contains(free, at) || (typ.Kind() != reflect.Struct || value) && covered[at] {
			return
		}
		if typ.Kind() != reflect.Struct || value || typ == reflect.TypeFor[metav1.Time]() {
			t.Errorf("%s: no mistake of the table is about it", at)
			return
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			walk(typ.Field(i).Type, at+"."+name)
		}
	}
	walk(reflect.TypeFor[hpc.BatchClusterSpec](), "spec")
}

func TestUnserved(t *testing.T) {
	served := all
	served.Unserved = []string{"spec.accounts[*].allowEnv", "spec.images.mirrors", "spec.nodes[*].reservation", "spec.staging.retention"}
	c := decode(t)
	if errs := validation.BatchCluster(c, served); len(errs) > 0 {
		t.Errorf("nothing is set: %v", errs)
	}
	c.Spec.Accounts = append(c.Spec.Accounts, hpc.Account{User: "bob", AllowEnv: []string{"A"}})
	c.Spec.Staging.Retention = &metav1.Duration{Duration: time.Hour}
	errs := validation.BatchCluster(c, served)
	if len(errs) != 2 || errs[0].Field != "spec.accounts[1].allowEnv" || errs[1].Field != "spec.staging.retention" {
		t.Errorf("%v", errs)
	}
}

func TestDecodeIsStrict(t *testing.T) {
	for want, text := range map[string]string{
		`unknown field "spec.node"`:          strings.Replace(base, "  nodes:", "  node:", 1),
		`key "type" already set`:             strings.Replace(base, "  type: slurm", "  type: slurm\n  type: pbs", 1),
		`apiVersion "hpc.isthmus.sh/v2"`:     strings.Replace(base, "v1alpha1", "v2", 1),
		`kind "Cluster"`:                     strings.Replace(base, "BatchCluster", "Cluster", 1),
		"cannot unmarshal number":            strings.Replace(base, "user: alice", "user: 1000", 1),
		"time: missing unit in duration":     base + "  poll: {tick: \"5\"}\n",
		"did not find expected node content": "{",
	} {
		if _, err := validation.Decode([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	c := decode(t)
	if c.Spec.Nodes[0].MaxPodsPending != 1000 || c.Spec.Connection.Type != "cli" || !slices.Equal(c.Spec.Runtimes, []hpc.Runtime{hpc.RuntimeHost}) {
		t.Errorf("defaults: %+v", c.Spec)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(base))
	f.Add([]byte("{"))
	f.Fuzz(func(_ *testing.T, text []byte) {
		if c, err := validation.Decode(text); err == nil {
			_ = validation.BatchCluster(c, all) // no input may end the daemon
		}
	})
}

// What the directories of sites call their users is taken.
func TestUserNames(t *testing.T) {
	for _, name := range []string{"alice", "john.doe", "u1234567@site.example", "Z001", "12345abc", "a-b_c"} {
		c := decode(t)
		c.Spec.Accounts[0].User = name
		if errs := validation.BatchCluster(c, all); len(errs) > 0 {
			t.Errorf("%s: %v", name, errs)
		}
	}
}
