package kubelet

import "fmt"

// containerdConfig is for containerd 1.6, as Debian 12 has it.
func (k *Kubelet) containerdConfig() string {
	return fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs", "io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing",
]
[grpc]
  address = %q
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %q
  stream_server_address = %q
  stream_server_port = "10010"
  # A machine without CAP_SYS_RESOURCE lets nobody lower the score.
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %q
    conf_dir = %q
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
`, k.path("containerd", "root"), k.path("containerd", "state"), k.socket(), PauseImage, k.place.far(), pluginDir, k.path("cni"))
}

// networkConfig gives every pod an interface of its own.
func (k *Kubelet) networkConfig() string {
	return fmt.Sprintf(`{"cniVersion": "0.4.0", "name": "pods", "plugins": [{
  "type": "ptp",
  "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": %q}]], "routes": [{"dst": "0.0.0.0/0"}]}
}]}
`, k.path("addresses"), k.place.pods())
}

// kubeletConfig differs from a kubelet's defaults in what a test machine asks
// for: places, ports, no eviction for a full disk, no firewall rules. Volumes
// are looked at every few seconds instead of every minute.
func (k *Kubelet) kubeletConfig(cert, key string, port int) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: %[1]s
port: %[2]d
healthzBindAddress: %[1]s
healthzPort: %[3]d
tlsCertFile: %[4]q
tlsPrivateKeyFile: %[5]q
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: %[6]q}
authorization: {mode: Webhook}
containerRuntimeEndpoint: "unix://%[7]s"
cgroupDriver: cgroupfs
cgroupRoot: /%[8]s
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
makeIPTablesUtilChains: false
clusterDomain: cluster.local
resolvConf: %[9]q
podLogsDir: %[10]q
volumePluginDir: %[11]q
syncFrequency: 5s
volumeStatsAggPeriod: 5s
maxPods: 250
evictionHard: {memory.available: 1Mi, nodefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.available: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
`, k.place.near(), port, port+1, cert, key, k.config.ControlPlane.ClusterCAFile(), k.socket(), k.place.cgroups(),
		k.path("resolv.conf"), k.path("pods"), k.path("plugins"))
}
