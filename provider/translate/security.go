package translate

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
)

const confined = "processes on HPC nodes run with the compute host's own confinement and the account's ordinary rights"

// checkPodSecurity refuses what an unprivileged process of a fixed user cannot
// have. What merely takes rights away that it does not have is fine.
func (p *pod) checkPodSecurity() {
	s := p.Pod.Spec.SecurityContext
	if s == nil {
		return
	}
	const at = "spec.securityContext"
	p.checkIDs(at, s.RunAsUser, s.RunAsGroup)
	if s.FSGroup != nil && (p.in.GID == 0 || *s.FSGroup != p.in.GID) {
		p.refuse(at+".fsGroup", strconv.FormatInt(*s.FSGroup, 10), "volumes belong to user "+p.in.Account.User+"; remove it")
	}
	if len(s.SupplementalGroups) > 0 {
		p.refuse(at+".supplementalGroups", "", "the groups of user "+p.in.Account.User+" on the cluster are used; remove it")
	}
	if len(s.Sysctls) > 0 {
		p.refuse(at+".sysctls", s.Sysctls[0].Name, "kernel parameters cannot be set by jobs; remove it")
	}
	p.checkConfinement(at, s.SELinuxOptions, s.SeccompProfile, s.AppArmorProfile, s.WindowsOptions)
}

func (p *pod) checkSecurity(at string, s *corev1.SecurityContext) {
	if s == nil {
		return
	}
	if s.Privileged != nil && *s.Privileged {
		p.refuse(at+".privileged", "true", "jobs have no privileges on the compute hosts; remove it")
	}
	if s.Capabilities != nil && len(s.Capabilities.Add) > 0 {
		p.refuse(at+".capabilities.add", string(s.Capabilities.Add[0]), "jobs have no capabilities on the compute hosts; remove it")
	}
	if s.ProcMount != nil && *s.ProcMount != corev1.DefaultProcMount {
		p.refuse(at+".procMount", string(*s.ProcMount), "the host's /proc is used; remove it")
	}
	if s.ReadOnlyRootFilesystem != nil && *s.ReadOnlyRootFilesystem {
		p.note("readOnlyRootFilesystem is not enforced on HPC nodes: a process may write where user %s may", p.in.Account.User)
	}
	p.checkIDs(at, s.RunAsUser, s.RunAsGroup)
	p.checkConfinement(at, s.SELinuxOptions, s.SeccompProfile, s.AppArmorProfile, s.WindowsOptions)
}

func (p *pod) checkIDs(at string, user, group *int64) {
	if user != nil && (p.in.UID == 0 || *user != p.in.UID) {
		p.refuse(at+".runAsUser", strconv.FormatInt(*user, 10), "jobs of this namespace run as user "+p.in.Account.User+" of the cluster; remove it")
	}
	if group != nil && (p.in.GID == 0 || *group != p.in.GID) {
		p.refuse(at+".runAsGroup", strconv.FormatInt(*group, 10), "jobs of this namespace run with the groups of user "+p.in.Account.User+" of the cluster; remove it")
	}
}

func (p *pod) checkConfinement(at string, se *corev1.SELinuxOptions, sec *corev1.SeccompProfile, aa *corev1.AppArmorProfile, win *corev1.WindowsSecurityContextOptions) {
	if se != nil && *se != (corev1.SELinuxOptions{}) {
		p.refuse(at+".seLinuxOptions", "", confined+"; remove it")
	}
	if sec != nil {
		if sec.Type == corev1.SeccompProfileTypeLocalhost {
			p.refuse(at+".seccompProfile", string(sec.Type), confined+"; use RuntimeDefault or remove it")
		} else if sec.Type == corev1.SeccompProfileTypeRuntimeDefault {
			p.note("%s: the seccomp profile RuntimeDefault is not applied", confined)
		}
	}
	if aa != nil {
		if aa.Type == corev1.AppArmorProfileTypeLocalhost {
			p.refuse(at+".appArmorProfile", string(aa.Type), confined+"; use RuntimeDefault or remove it")
		} else if aa.Type == corev1.AppArmorProfileTypeRuntimeDefault {
			p.note("%s: the AppArmor profile RuntimeDefault is not applied", confined)
		}
	}
	if win != nil {
		p.refuse(at+".windowsOptions", "", "HPC nodes run linux; remove it")
	}
}
