package translate_test

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

func ptr[T any](v T) *T { return &v }

func main(p *corev1.Pod) *corev1.Container { return &p.Spec.Containers[0] }

func volume(p *corev1.Pod, src corev1.VolumeSource) {
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: src}}
}

func env(names ...string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, n := range names {
			main(p).Env = append(main(p).Env, corev1.EnvVar{Name: n, Value: "x"})
		}
	}
}

func projected(sources ...corev1.VolumeProjection) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		volume(p, corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: sources}})
	}
}

func rule(r corev1.ContainerRestartRule) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		main(p).RestartPolicy, main(p).RestartPolicyRules = ptr(corev1.ContainerRestartPolicyNever), []corev1.ContainerRestartRule{r}
	}
}

// TestRefusals holds that what the host runtime cannot give is refused by field.
func TestRefusals(t *testing.T) {
	tests := map[string]struct {
		change func(*corev1.Pod)
		field  string
	}{
		"no command":    {func(p *corev1.Pod) { main(p).Command = nil }, "spec.containers[0].command"},
		"no containers": {func(p *corev1.Pod) { p.Spec.Containers = nil }, "spec.containers"},
		"privileged":    {func(p *corev1.Pod) { main(p).SecurityContext = &corev1.SecurityContext{Privileged: ptr(true)} }, "spec.containers[0].securityContext.privileged"},
		"capabilities": {func(p *corev1.Pod) {
			main(p).SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"SYS_ADMIN"}}}
		}, "spec.containers[0].securityContext.capabilities.add"},
		"run as user":     {func(p *corev1.Pod) { main(p).SecurityContext = &corev1.SecurityContext{RunAsUser: ptr(int64(0))} }, "spec.containers[0].securityContext.runAsUser"},
		"pod run as user": {func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(7))} }, "spec.securityContext.runAsUser"},
		"fsGroup":         {func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: ptr(int64(7))} }, "spec.securityContext.fsGroup"},
		"sysctls": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "x"}}}
		}, "spec.securityContext.sysctls"},
		"host port":      {func(p *corev1.Pod) { main(p).Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}} }, "spec.containers[0].ports[0].hostPort"},
		"runtime class":  {func(p *corev1.Pod) { p.Spec.RuntimeClassName = ptr("kata") }, "spec.runtimeClassName"},
		"overhead":       {func(p *corev1.Pod) { p.Spec.Overhead = list("cpu", "1") }, "spec.overhead"},
		"claims":         {func(p *corev1.Pod) { p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "x"}} }, "spec.resourceClaims"},
		"user namespace": {func(p *corev1.Pod) { p.Spec.HostUsers = ptr(false) }, "spec.hostUsers"},
		"windows":        {func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} }, "spec.os.name"},
		"dns":            {func(p *corev1.Pod) { p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}} }, "spec.dnsConfig"},
		"daemon set":     {func(p *corev1.Pod) { p.OwnerReferences = []metav1.OwnerReference{{Kind: "DaemonSet", Name: "d"}} }, "metadata.ownerReferences"},
		"static pod":     {func(p *corev1.Pod) { p.Annotations["kubernetes.io/config.mirror"] = "x" }, "metadata.annotations[kubernetes.io/config.mirror]"},
		"runtime":        {func(p *corev1.Pod) { p.Annotations[wellknown.Runtime] = "apptainer" }, "metadata.annotations[isthmus.sh/runtime]"},
		"block device":   {func(p *corev1.Pod) { main(p).VolumeDevices = []corev1.VolumeDevice{{Name: "x"}} }, "spec.containers[0].volumeDevices"},
		"mount propagation": {func(p *corev1.Pod) {
			volume(p, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
			main(p).VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/x", MountPropagation: ptr(corev1.MountPropagationBidirectional)}}
		}, "spec.containers[0].volumeMounts[0].mountPropagation"},
		"mount elsewhere": {func(p *corev1.Pod) {
			volume(p, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
			main(p).VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/x/../../etc"}}
		}, "spec.containers[0].volumeMounts[0].mountPath"},
		"sub path": {func(p *corev1.Pod) {
			volume(p, corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}})
			main(p).VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/x", SubPath: "../y"}}
		}, "spec.containers[0].volumeMounts[0].subPath"},
		"no such volume":  {func(p *corev1.Pod) { main(p).VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/x"}} }, "spec.containers[0].volumeMounts[0].name"},
		"ephemeral claim": {func(p *corev1.Pod) { volume(p, corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}) }, "spec.volumes[0].ephemeral"},
		"image volume":    {func(p *corev1.Pod) { volume(p, corev1.VolumeSource{Image: &corev1.ImageVolumeSource{}}) }, "spec.volumes[0].image"},
		"trust bundle":    {projected(corev1.VolumeProjection{ClusterTrustBundle: &corev1.ClusterTrustBundleProjection{}}), "spec.volumes[0].projected.sources[0].clusterTrustBundle"},
		"pod certificate": {projected(corev1.VolumeProjection{PodCertificate: &corev1.PodCertificateProjection{}}), "spec.volumes[0].projected.sources[0].podCertificate"},
		"host path type": {func(p *corev1.Pod) {
			volume(p, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/scratch/x", Type: ptr(corev1.HostPathType("Pipe"))}})
		}, "spec.volumes[0].hostPath.type"},
		"root": {func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(0))} }, "spec.securityContext.runAsUser"},
		"foreign group": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SupplementalGroups: []int64{2000, 7}}
		}, "spec.securityContext.supplementalGroups[1]"},
		"strict groups": {func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{SupplementalGroupsPolicy: ptr(corev1.SupplementalGroupsPolicyStrict)}
		}, "spec.securityContext.supplementalGroupsPolicy"},
		"restart all":    {rule(corev1.ContainerRestartRule{Action: corev1.ContainerRestartRuleActionRestartAllContainers}), "spec.containers[0].restartPolicyRules[0].action"},
		"rule, no codes": {rule(corev1.ContainerRestartRule{Action: corev1.ContainerRestartRuleActionRestart}), "spec.containers[0].restartPolicyRules[0].exitCodes"},
		"csi":            {func(p *corev1.Pod) { volume(p, corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{}}) }, "spec.volumes[0]"},
		"nfs":            {func(p *corev1.Pod) { volume(p, corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}) }, "spec.volumes[0].nfs"},
		"token": {func(p *corev1.Pod) {
			volume(p, corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}}}}})
		}, "spec.volumes[0].projected.sources[0].serviceAccountToken"},
		"host path": {func(p *corev1.Pod) {
			volume(p, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/scratchy"}})
		}, "spec.volumes[0].hostPath.path"},
		"host path escape": {func(p *corev1.Pod) {
			volume(p, corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/scratch/../etc"}})
		}, "spec.volumes[0].hostPath.path"},
		"huge pages":     {func(p *corev1.Pod) { main(p).Resources.Requests = list("hugepages-2Mi", "2Mi") }, "spec.containers[0].resources.requests[hugepages-2Mi]"},
		"too many cpus":  {func(p *corev1.Pod) { main(p).Resources.Requests = list("cpu", "9E") }, "spec.containers[*].resources"},
		"negative":       {func(p *corev1.Pod) { main(p).Resources.Requests = list("cpu", "-1") }, "spec.containers[0].resources.requests[cpu]"},
		"nul":            {func(p *corev1.Pod) { main(p).Args = []string{"ok", "a\x00b"} }, "spec.containers[0].args[1]"},
		"nul in an env":  {func(p *corev1.Pod) { main(p).Env = []corev1.EnvVar{{Name: "A", Value: "\x00"}} }, "spec.containers[0].env[0].value"},
		"not utf-8":      {func(p *corev1.Pod) { p.Labels["x"] = "\xff" }, "metadata.labels[x]"},
		"duplicate name": {func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, p.Spec.Containers[0]) }, "spec.containers[1].name"},
		"env file": {func(p *corev1.Pod) {
			main(p).Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{FileKeyRef: &corev1.FileKeySelector{VolumeName: "none"}}}}
		}, "spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName"},
		"unknown field": {func(p *corev1.Pod) { main(p).Env = []corev1.EnvVar{{Name: "A", ValueFrom: ref("spec.tolerations")}} }, "spec.containers[0].env[0].valueFrom.fieldRef.fieldPath"},
		"memory without any": {func(p *corev1.Pod) {
			main(p).Resources.Requests = nil
			main(p).Env = []corev1.EnvVar{{Name: "A", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.memory"}}}}
		}, "spec.containers[0].env[0].valueFrom.resourceFieldRef"},
		"stop signal":      {func(p *corev1.Pod) { main(p).Lifecycle = &corev1.Lifecycle{StopSignal: ptr(corev1.SIGCHLD)} }, "spec.containers[0].lifecycle.stopSignal"},
		"no probe handler": {func(p *corev1.Pod) { main(p).StartupProbe = &corev1.Probe{} }, "spec.containers[0].startupProbe"},
		"empty hook":       {func(p *corev1.Pod) { main(p).Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{}} }, "spec.containers[0].lifecycle.preStop"},
		"container policy": {func(p *corev1.Pod) { main(p).RestartPolicy = ptr(corev1.ContainerRestartPolicy("Maybe")) }, "spec.containers[0].restartPolicy"},
		"grace":            {func(p *corev1.Pod) { p.Spec.TerminationGracePeriodSeconds = ptr(int64(1 << 40)) }, "spec.terminationGracePeriodSeconds"},
		"deny list":        {env("OK", "LD_PRELOAD"), "spec.containers[0].env[1].name"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			p := newPod(0)
			tc.change(p)
			_, err := translate.Gang(input(p))
			wantRefusal(t, err, tc.field, true)
		})
	}
}

func TestEnvNames(t *testing.T) {
	for _, name := range []string{
		"LD_LIBRARY_PATH", "LD_AUDIT", "SLURM_JOB_ID", "SBATCH_ACCOUNT", "SRUN_DEBUG", "SPANK_X", "PBS_JOBID", "PMI_RANK", "PMIX_MCA", "PMI2_X", "PRTE_MCA_plm_slurm_args", "PRTE_MCA_rmaps",
		"BASH_ENV", "BASH_FUNC_x%%", "ENV", "IFS", "PYTHONSTARTUP", "NVIDIA_IMEX_CHANNELS", "CUDA_MPS_PIPE_DIRECTORY",
		"", "A B", "A=B", "A\nB", "A;B", "Ä", "A,B",
	} {
		p := newPod(0)
		env(name)(p)
		_, err := translate.Gang(input(p))
		wantRefusal(t, err, "spec.containers[0].env[0].name", true)
		main(p).Env = nil
		main(p).EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cmRef("c")}}}
		in := input(p)
		in.Members[0].ConfigMaps = map[string]*corev1.ConfigMap{"c": {Data: map[string]string{name: "x"}}}
		if out, err := translate.Gang(in); err == nil && len(out.Pods[0].Env["main"]) > 0 {
			t.Errorf("%q reached the job through envFrom", name)
		}
	}
	// Every second image sets these, and the grant decides: left out, and said.
	for _, name := range []string{"NVIDIA_VISIBLE_DEVICES", "NVIDIA_DRIVER_CAPABILITIES"} {
		p := newPod(0)
		env(name)(p)
		main(p).EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: cmRef("c")}}}
		in := input(p)
		in.Members[0].ConfigMaps = map[string]*corev1.ConfigMap{"c": {Data: map[string]string{name: "x"}}}
		out, err := translate.Gang(in)
		if err != nil || len(out.Pods[0].Env["main"]) > 0 || !strings.Contains(strings.Join(out.Notes, "\n"), name) {
			t.Errorf("%s: %v, environment %v, notes %q", name, err, out.Pods[0].Env["main"], out.Notes)
		}
	}
	for _, name := range []string{"A", "_a", "a.b", "a-b", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "VC_TASK_INDEX", "MASTER_ADDR", "PYTHONPATH", "PATH", "OLD_PATH", "NCCL_DEBUG", "PRTE_MCA_plm", "PRTE_MCA_ras"} {
		p := newPod(0)
		env(name)(p)
		if _, err := translate.Gang(input(p)); err != nil {
			t.Errorf("%q was refused: %v", name, err)
		}
	}
}

// TestAccepted holds that what takes rights away, or asks for what a bare
// process has anyway, is no reason to refuse.
func TestAccepted(t *testing.T) {
	p := newPod(0)
	p.Spec.HostNetwork, p.Spec.HostPID, p.Spec.HostIPC = true, true, true
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr(true), RunAsUser: ptr(int64(1001)), FSGroup: ptr(int64(2000)), SupplementalGroups: []int64{2000}, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeRuntimeDefault}}
	c := main(p)
	c.SecurityContext = &corev1.SecurityContext{AllowPrivilegeEscalation: ptr(false), Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}, ReadOnlyRootFilesystem: ptr(true)}
	c.Ports = []corev1.ContainerPort{{ContainerPort: 2222, HostPort: 2222}}
	c.Args = []string{"$(echo no)", "`x`", "a\nb", "--", "; rm -rf /", "ünïcode"}
	c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{GRPC: &corev1.GRPCAction{Port: 1}}}
	c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{TCPSocket: &corev1.TCPSocketAction{}}}
	c.RestartPolicy = ptr(corev1.ContainerRestartPolicyNever)
	c.RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestart,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	in := input(p)
	in.UID, in.GID = 1001, 1002
	out, err := translate.Gang(in)
	if err != nil {
		t.Fatal(err)
	}
	if len(out.Notes) != 1 {
		t.Errorf("notes %q", out.Notes)
	}
	if got := out.Pods[0].Pod.Spec.Containers[0].Args; len(got) != 6 || got[0] != "$(echo no)" {
		t.Errorf("arguments %q", got)
	}
}

func TestAllCausesAreTold(t *testing.T) {
	p := newPod(0)
	main(p).Command = nil
	p.Spec.RuntimeClassName = ptr("kata")
	env("LD_PRELOAD")(p)
	_, err := translate.Gang(input(p))
	for _, field := range []string{"spec.containers[0].command", "spec.runtimeClassName", "spec.containers[0].env[0].name"} {
		wantRefusal(t, err, field, true)
	}
}
