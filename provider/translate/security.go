package translate

import (
	"fmt"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
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
	if s.FSGroup != nil {
		p.checkGroup(at+".fsGroup", *s.FSGroup)
	}
	for i, group := range s.SupplementalGroups {
		p.checkGroup(at+".supplementalGroups["+strconv.Itoa(i)+"]", group)
	}
	if policy := s.SupplementalGroupsPolicy; policy != nil && *policy == corev1.SupplementalGroupsPolicyStrict {
		p.refuse(at+".supplementalGroupsPolicy", string(*policy), "a job has all groups of user "+p.in.Account.User+"; use Merge or remove it")
	}
	if policy := s.SELinuxChangePolicy; policy != nil {
		p.refuse(at+".seLinuxChangePolicy", string(*policy), confined+"; remove it")
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
	p.checkIDs(at, s.RunAsUser, s.RunAsGroup)
	p.checkConfinement(at, s.SELinuxOptions, s.SeccompProfile, s.AppArmorProfile, s.WindowsOptions)
}

func (p *pod) checkIDs(at string, user, group *int64) {
	if p.runtime() == hpcv1alpha1.RuntimePodman {
		const root = "the runtime podman shows the job's user and group as root in the container; use 0, remove it, or use another runtime"
		for _, id := range []struct {
			name string
			id   *int64
		}{{".runAsUser", user}, {".runAsGroup", group}} {
			if id.id != nil && *id.id != 0 {
				p.refuse(at+id.name, strconv.FormatInt(*id.id, 10), root)
			}
		}
		return
	}
	p.checkID(at+".runAsUser", user, p.in.UID, "jobs of this namespace run as user "+p.in.Account.User+" of the cluster")
	p.checkID(at+".runAsGroup", group, p.in.GID, "jobs of this namespace run with the first group of user "+p.in.Account.User+" of the cluster")
}

// checkID accepts the id that the job has anyway.
func (p *pod) checkID(field string, asked *int64, have int64, why string) {
	switch {
	case asked == nil || *asked == have && have != 0:
	case have == 0 && *asked != 0:
		p.waitForIdentity(field)
	default:
		p.refuse(field, strconv.FormatInt(*asked, 10), fmt.Sprintf("%s (%d); use that or remove it", why, have))
	}
}

// checkGroup accepts a group that the job's user has.
func (p *pod) checkGroup(field string, group int64) {
	switch {
	case group != 0 && (group == p.in.GID || slices.Contains(p.in.Groups, group)):
	case group != 0 && p.in.GID == 0:
		p.waitForIdentity(field)
	default:
		p.refuse(field, strconv.FormatInt(group, 10), "is not a group of user "+p.in.Account.User+" of the cluster; use one of the user's, or remove it")
	}
}

// waitForIdentity: the ids of the user come from the cluster, with the first
// look at its staging directory.
func (p *pod) waitForIdentity(field string) {
	p.wait(ReasonConfig, field, "the numeric ids of user "+p.in.Account.User+" on the cluster are not known yet")
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
