package translate

import (
	"fmt"
	"path"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// mirrorAnnotation marks pods that a kubelet made from files.
const mirrorAnnotation = "kubernetes.io/config.mirror"

// stopSignals are those that end a program on every kind of compute host.
var stopSignals = map[corev1.Signal]bool{
	corev1.SIGTERM: true, corev1.SIGINT: true, corev1.SIGHUP: true, corev1.SIGQUIT: true,
	corev1.SIGUSR1: true, corev1.SIGUSR2: true, corev1.SIGKILL: true,
}

// check refuses everything that the pod's runtime cannot give.
func (p *pod) check() {
	if field := badText(reflect.ValueOf(&p.Pod.ObjectMeta).Elem(), "metadata"); field != "" {
		p.refuse(field, "", "has a NUL byte or is not valid UTF-8; remove it")
	}
	if field := badText(reflect.ValueOf(&p.Pod.Spec).Elem(), "spec"); field != "" {
		p.refuse(field, "", "has a NUL byte or is not valid UTF-8; remove it")
	}
	p.checkOwner()
	p.checkNames()
	p.checkSpec()
	p.checkPodSecurity()
	init, main := p.Pod.Spec.InitContainers, p.Pod.Spec.Containers
	if len(main) == 0 {
		p.refuse("spec.containers", "", "a pod needs a container")
	}
	for i := range init {
		p.checkContainer(fmt.Sprintf("spec.initContainers[%d]", i), &init[i], true)
	}
	for i := range main {
		p.checkContainer(fmt.Sprintf("spec.containers[%d]", i), &main[i], false)
	}
}

func (p *pod) checkOwner() {
	for _, o := range p.Pod.OwnerReferences {
		if o.Kind == "DaemonSet" {
			p.refuse("metadata.ownerReferences", o.Name, "pods of DaemonSets never run on HPC nodes; exclude nodes with the label "+
				wellknown.VirtualNode+" by node affinity")
		}
	}
	if _, mirror := p.Pod.Annotations[mirrorAnnotation]; mirror {
		p.refuse("metadata.annotations["+mirrorAnnotation+"]", "", "static pods never run on HPC nodes")
	}
	p.checkRuntime()
}

// checkNames guards what becomes file names and host names.
func (p *pod) checkNames() {
	seen := map[string]bool{}
	name := func(field, value string) {
		if len(validation.IsDNS1123Label(value)) > 0 {
			p.refuse(field, value, "is not a lower-case DNS label")
		} else if seen[value] {
			p.refuse(field, value, "is the name of another container")
		}
		seen[value] = true
	}
	for i, c := range p.Pod.Spec.InitContainers {
		name(fmt.Sprintf("spec.initContainers[%d].name", i), c.Name)
	}
	for i, c := range p.Pod.Spec.Containers {
		name(fmt.Sprintf("spec.containers[%d].name", i), c.Name)
	}
	for _, f := range []struct{ field, value string }{
		{"metadata.name", p.Pod.Name}, {"metadata.namespace", p.Pod.Namespace},
		{"spec.hostname", p.Pod.Spec.Hostname}, {"spec.subdomain", p.Pod.Spec.Subdomain},
	} {
		optional := strings.HasPrefix(f.field, "spec.")
		if (f.value != "" || !optional) && len(validation.IsDNS1123Subdomain(f.value)) > 0 {
			p.refuse(f.field, f.value, "is not a DNS name")
		}
	}
}

func (p *pod) checkSpec() {
	s := &p.Pod.Spec
	if s.RuntimeClassName != nil && *s.RuntimeClassName != "" {
		p.refuse("spec.runtimeClassName", *s.RuntimeClassName, "runtime classes do not exist on HPC nodes; remove it and choose with the annotation "+wellknown.Runtime)
	}
	if len(s.Overhead) > 0 {
		p.refuse("spec.overhead", "", "pod overhead does not exist on HPC nodes; remove the runtime class that sets it")
	}
	if len(s.ResourceClaims) > 0 {
		p.refuse("spec.resourceClaims", s.ResourceClaims[0].Name, "resource claims are not served by batch systems; ask for GPUs by resource name")
	}
	if s.OS != nil && s.OS.Name != corev1.Linux {
		p.refuse("spec.os.name", string(s.OS.Name), "HPC nodes run linux")
	}
	if s.HostUsers != nil && !*s.HostUsers {
		p.refuse("spec.hostUsers", "false", "a bare process of the host has no user namespace of its own; remove it or set true")
	}
	if c := s.DNSConfig; c != nil && (len(c.Nameservers) > 0 || len(c.Searches) > 0 || len(c.Options) > 0) {
		p.refuse("spec.dnsConfig", "", "the compute host's resolver is used as it is; remove dnsConfig")
	}
	if s.HostnameOverride != nil {
		p.refuse("spec.hostnameOverride", *s.HostnameOverride, "a bare process cannot change its host's name; use spec.hostname, under which the gang finds the pod")
	}
	if s.SetHostnameAsFQDN != nil && *s.SetHostnameAsFQDN {
		p.refuse("spec.setHostnameAsFQDN", "true", "a bare process cannot change its host's name; remove it")
	}
	switch s.RestartPolicy {
	case "", corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever:
	default:
		p.refuse("spec.restartPolicy", string(s.RestartPolicy), "must be Always, OnFailure or Never")
	}
	if g := s.TerminationGracePeriodSeconds; g != nil && graceSeconds(p.Member) != *g {
		p.refuse("spec.terminationGracePeriodSeconds", strconv.FormatInt(*g, 10), "must be between 0 and 86400")
	}
}

func (p *pod) checkContainer(at string, c *corev1.Container, init bool) {
	p.checkImage(at, c)
	p.checkRestart(at, c)
	for i, port := range c.Ports {
		if port.HostPort != 0 && port.HostPort != port.ContainerPort {
			p.refuse(fmt.Sprintf("%s.ports[%d].hostPort", at, i), strconv.Itoa(int(port.HostPort)),
				"pods listen on their host's own ports, none can be mapped; use the containerPort or remove hostPort")
		}
	}
	if len(c.VolumeDevices) > 0 {
		p.refuse(at+".volumeDevices", c.VolumeDevices[0].Name, "block devices cannot be attached to HPC nodes; use a hostPath volume on the cluster's file system")
	}
	for i, m := range c.VolumeMounts {
		p.checkMount(fmt.Sprintf("%s.volumeMounts[%d]", at, i), m)
	}
	for _, pr := range []struct {
		name  string
		probe *corev1.Probe
	}{{"livenessProbe", c.LivenessProbe}, {"readinessProbe", c.ReadinessProbe}, {"startupProbe", c.StartupProbe}} {
		p.checkProbe(at+"."+pr.name, pr.probe)
	}
	p.checkLifecycle(at+".lifecycle", c.Lifecycle)
	p.checkSecurity(at+".securityContext", c.SecurityContext)
}

func (p *pod) checkRestart(at string, c *corev1.Container) {
	if r := c.RestartPolicy; r != nil {
		switch *r {
		case corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever:
		default:
			p.refuse(at+".restartPolicy", string(*r), "must be Always, OnFailure or Never")
		}
	} else if len(c.RestartPolicyRules) > 0 {
		p.refuse(at+".restartPolicyRules", "", "rules need a restartPolicy of the container")
	}
	for i, r := range c.RestartPolicyRules {
		field := fmt.Sprintf("%s.restartPolicyRules[%d]", at, i)
		switch {
		case r.Action == corev1.ContainerRestartRuleActionRestartAllContainers:
			p.refuse(field+".action", string(r.Action), "containers on HPC nodes are restarted one by one; use Restart")
		case r.Action != corev1.ContainerRestartRuleActionRestart:
			p.refuse(field+".action", string(r.Action), "must be Restart")
		case r.ExitCodes == nil:
			p.refuse(field+".exitCodes", "", "a rule needs exit codes")
		case r.ExitCodes.Operator != corev1.ContainerRestartRuleOnExitCodesOpIn && r.ExitCodes.Operator != corev1.ContainerRestartRuleOnExitCodesOpNotIn:
			p.refuse(field+".exitCodes.operator", string(r.ExitCodes.Operator), "must be In or NotIn")
		}
	}
}

func (p *pod) checkProbe(at string, probe *corev1.Probe) {
	switch {
	case probe == nil:
	case (probe.Exec == nil || len(probe.Exec.Command) == 0) && probe.HTTPGet == nil && probe.TCPSocket == nil && probe.GRPC == nil:
		p.refuse(at, "", "has no handler; use exec, httpGet, tcpSocket or grpc")
	}
}

func (p *pod) checkLifecycle(at string, l *corev1.Lifecycle) {
	if l == nil {
		return
	}
	for _, hook := range []struct {
		name    string
		handler *corev1.LifecycleHandler
	}{{"postStart", l.PostStart}, {"preStop", l.PreStop}} {
		h := hook.handler
		if h != nil && (h.Exec == nil || len(h.Exec.Command) == 0) && h.HTTPGet == nil && h.Sleep == nil && h.TCPSocket == nil {
			p.refuse(at+"."+hook.name, "", "has no handler; use exec, httpGet or sleep")
		}
	}
	if s := l.StopSignal; s != nil && !stopSignals[*s] {
		p.refuse(at+".stopSignal", string(*s), "containers on HPC nodes can be stopped with SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2 and SIGKILL")
	}
}

func (p *pod) checkMount(at string, m corev1.VolumeMount) {
	if !slices.ContainsFunc(p.Pod.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == m.Name }) {
		p.refuse(at+".name", m.Name, "the pod has no such volume")
	}
	if !path.IsAbs(m.MountPath) || slices.Contains(strings.Split(m.MountPath, "/"), "..") || path.Clean(m.MountPath) == "/" {
		p.refuse(at+".mountPath", m.MountPath, "must be an absolute path below / without \"..\"")
	}
	for _, sub := range []struct{ field, value string }{{"subPath", m.SubPath}, {"subPathExpr", m.SubPathExpr}} {
		if path.IsAbs(sub.value) || slices.Contains(strings.Split(sub.value, "/"), "..") {
			p.refuse(at+"."+sub.field, sub.value, "must be a relative path without \"..\"")
		}
	}
	if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
		p.refuse(at+".mountPropagation", string(*m.MountPropagation), "mounts are not propagated on HPC nodes; remove it")
	}
	if r := m.RecursiveReadOnly; r != nil && *r == corev1.RecursiveReadOnlyEnabled {
		p.refuse(at+".recursiveReadOnly", string(*r), "cannot be enforced on HPC nodes; use IfPossible or remove it")
	}
}

// badText walks v and gives the path of the first string, or map key, that has
// a NUL byte or is not UTF-8; "" when all are well.
func badText(v reflect.Value, at string) string {
	switch v.Kind() {
	case reflect.String:
		if s := v.String(); strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
			return at
		}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return badText(v.Elem(), at)
		}
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return ""
		}
		for i := range v.Len() {
			if bad := badText(v.Index(i), at+"["+strconv.Itoa(i)+"]"); bad != "" {
				return bad
			}
		}
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			if bad := badText(k, at); bad != "" {
				return bad
			}
			if bad := badText(v.MapIndex(k), at+"["+k.String()+"]"); bad != "" {
				return bad
			}
		}
	case reflect.Struct:
		switch v.Interface().(type) {
		case resource.Quantity, metav1.Time, metav1.FieldsV1:
			return ""
		}
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			next := at
			if name != "" && !f.Anonymous {
				next += "." + name
			}
			if bad := badText(v.Field(i), next); bad != "" {
				return bad
			}
		}
	}
	return ""
}
