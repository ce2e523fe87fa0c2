package translate

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// licenses adds up what the members hold of the batch system's licences: a batch job
// has them as a whole, from its start to its end.
func (g *gang) licenses(members []Member) map[string]int64 {
	const field = "metadata.annotations[" + wellknown.Licenses + "]"
	all := map[string]int64{}
	for _, m := range members {
		p := g.pod(m)
		p.checkLicenses()
		for name, q := range resourcehelper.PodRequests(withLimitsAsRequests(p.Pod), resourcehelper.PodResourcesOptions{}) {
			if license, is := strings.CutPrefix(string(name), wellknown.LicensePrefix); is && !q.IsZero() {
				all[license] += min(q.Value(), backends.MaxLicenseCount)
			}
		}
		text, has := p.Pod.Annotations[wellknown.Licenses]
		if !has {
			continue
		}
		named, err := ParseLicenses(text)
		if err != nil {
			p.refuse(field, text, err.Error())
			continue
		}
		for name, n := range named {
			if why := g.noLicense(name); why != "" {
				p.refuse(field, text, why)
			}
			all[name] += n
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		if all[name] > backends.MaxLicenseCount {
			g.refuseAll(fmt.Sprintf("the gang asks for %d licences %s in all, more than %d", all[name], short(name), backends.MaxLicenseCount))
		}
	}
	if len(all) == 0 {
		return nil
	}
	return all
}

// checkLicenses looks at every request for licences as resources. Only a gang that is
// yet to be submitted is judged by what there is now.
func (p *pod) checkLicenses() {
	for at, container := range containers(p.Pod) {
		for _, from := range []struct {
			kind string
			list corev1.ResourceList
		}{{"requests", container.Resources.Requests}, {"limits", container.Resources.Limits}} {
			for _, name := range slices.Sorted(maps.Keys(from.list)) {
				if license, is := strings.CutPrefix(string(name), wellknown.LicensePrefix); is {
					p.checkLicense(fmt.Sprintf("%s.resources.%s[%s]", at, from.kind, name), license, from.list[name])
				}
			}
		}
	}
}

// containers gives those that share in what the pod asks for, with their fields.
func containers(pod *corev1.Pod) iter.Seq2[string, *corev1.Container] {
	return func(yield func(string, *corev1.Container) bool) {
		for i := range pod.Spec.InitContainers {
			if !yield(fmt.Sprintf("spec.initContainers[%d]", i), &pod.Spec.InitContainers[i]) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(fmt.Sprintf("spec.containers[%d]", i), &pod.Spec.Containers[i]) {
				return
			}
		}
	}
}

func (p *pod) checkLicense(at, name string, q resource.Quantity) {
	why := p.noLicense(name)
	switch {
	case q.IsZero():
		return
	case why != "":
	case q.Cmp(*resource.NewQuantity(backends.MaxLicenseCount, resource.DecimalSI)) > 0:
		why = fmt.Sprintf("more than %d", backends.MaxLicenseCount)
	case q.MilliValue()%1000 != 0:
		why = "licences are whole"
	default:
		return
	}
	p.refuse(at, q.String(), why)
}

// noLicense says why a licence cannot be had on the node, "" when it may be.
func (g *gang) noLicense(name string) string {
	switch {
	case !g.in.Capabilities.Licenses:
		return "the batch system of node " + g.in.Node.Name + " counts no licences; leave the request out"
	case !backends.ValidLicense(name):
		return "the name of a licence has letters, digits, '.', '_', '-' and '@', and starts with a letter or digit"
	case g.in.LicensesUnread: // the batch system judges
	case g.in.Partition.Name != "" && !slices.Contains(g.in.Licenses, name):
		// Only with the partition is the rest of the inventory known.
		if len(g.in.Licenses) == 0 {
			return "the batch system of node " + g.in.Node.Name + " has no licences"
		}
		return fmt.Sprintf("the batch system of node %s has no licence %s; it has %s", g.in.Node.Name, short(name), strings.Join(g.in.Licenses, ", "))
	}
	return ""
}

// ParseLicenses reads "NAME[:COUNT],...", where a name without a count is one.
func ParseLicenses(text string) (map[string]int64, error) {
	out := map[string]int64{}
	for item := range strings.SplitSeq(text, ",") {
		name, count, counted := strings.Cut(strings.TrimSpace(item), ":")
		n, err := int64(1), error(nil)
		if counted {
			n, err = strconv.ParseInt(count, 10, 64)
		}
		switch {
		case !backends.ValidLicense(name):
			return nil, fmt.Errorf("%q is no name of a licence; want a list such as fluent:2,db@server", short(name))
		case err != nil || n < 1 || n > backends.MaxLicenseCount:
			return nil, fmt.Errorf("%s: %q is not a count of 1 to %d", short(name), short(count), backends.MaxLicenseCount)
		case out[name] > 0:
			return nil, fmt.Errorf("%s is there twice", short(name))
		case len(out) >= backends.MaxLicenses:
			return nil, fmt.Errorf("more than %d names", backends.MaxLicenses)
		}
		out[name] = n
	}
	return out, nil
}

// switches is how close together the gang's hosts are to be; 0 is anywhere.
func (g *gang) switches(members []Member) (count int, wait time.Duration) {
	const field = "metadata.annotations[" + wellknown.Switches + "]"
	for _, m := range members {
		text, has := m.Pod.Annotations[wellknown.Switches]
		if !has {
			continue
		}
		p := g.pod(m)
		n, w, err := ParseSwitches(text)
		switch {
		case err != nil:
			p.refuse(field, text, err.Error())
		case !g.in.Capabilities.Switches:
			p.refuse(field, text, "the batch system of node "+g.in.Node.Name+", or the connection to it, cannot be asked for switches; leave the annotation out")
		case count != 0 && (n != count || w != wait):
			p.refuse(field, text, fmt.Sprintf("another member of the gang asks for %d switches and a wait of %s, and all are one batch job; ask for the same", count, wait))
		default:
			count, wait = n, w
		}
	}
	return count, wait
}

// ParseSwitches reads "COUNT[@TIME]", the time as ParseWalltime does.
func ParseSwitches(text string) (count int, wait time.Duration, err error) {
	number, limit, limited := strings.Cut(text, "@")
	count, err = strconv.Atoi(number)
	if err != nil || count < 1 || count > backends.MaxSwitches {
		return 0, 0, fmt.Errorf("%q is not a number of switches from 1 to %d; want one such as 1, or 1@10m with the longest wait for them", short(number), backends.MaxSwitches)
	}
	if !limited {
		return count, 0, nil
	}
	wait, err = ParseWalltime(limit)
	if err != nil {
		return 0, 0, fmt.Errorf("the longest wait: %w", err)
	}
	if wait > backends.MaxSwitchesWait {
		return 0, 0, errors.New("the longest wait is more than " + backends.MaxSwitchesWait.String())
	}
	return count, wait, nil
}
