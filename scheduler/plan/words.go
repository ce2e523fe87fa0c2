package plan

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// maxDomains bounds how many domains a message spells out; the data has all.
const maxDomains = 4

// Amount writes an amount of a resource as Kubernetes would.
func Amount(name string, v int64) string {
	switch {
	case name == "cpu" && v%1000 == 0:
		return strconv.FormatInt(v/1000, 10)
	case name == "cpu":
		return strconv.FormatInt(v, 10) + "m"
	case name == "memory" || name == "ephemeral-storage" || strings.HasPrefix(name, "hugepages-"):
		for _, u := range []struct {
			shift uint
			unit  string
		}{{40, "Ti"}, {30, "Gi"}, {20, "Mi"}, {10, "Ki"}} {
			if v >= 1<<u.shift && v%(1<<u.shift) == 0 {
				return strconv.FormatInt(v>>u.shift, 10) + u.unit
			}
		}
	}
	return strconv.FormatInt(v, 10)
}

// Words says a domain's reason in one clause.
func (r DomainReason) Words() string {
	var parts []string
	host := "host"
	if r.Domain == RealDomain {
		host = "node"
	}
	for _, s := range r.Short {
		text := fmt.Sprintf("needs %s %s, %s free", Amount(s.Resource, s.Need), s.Resource, Amount(s.Resource, s.Free))
		if s.Largest < s.Free {
			text += fmt.Sprintf("; biggest %s has %s", host, Amount(s.Resource, s.Largest))
		}
		parts = append(parts, text)
	}
	for _, s := range r.Member {
		parts = append(parts, fmt.Sprintf("a member needs %s %s, biggest %s has %s free", Amount(s.Resource, s.Need), s.Resource, host, Amount(s.Resource, s.Largest)))
	}
	if r.Wanted > 0 && len(r.Short) == 0 {
		parts = append(parts, fmt.Sprintf("%d of %d members find a %s", r.Placed, r.Wanted, host))
	}
	for _, n := range r.Nodes {
		if r.Domain == RealDomain && n.Count > 0 {
			nodes := "nodes"
			if n.Count == 1 {
				nodes = "node"
			}
			parts = append(parts, fmt.Sprintf("%d %s: %s", n.Count, nodes, n.Why))
		} else {
			parts = append(parts, n.Why)
		}
	}
	text := strings.Join(parts, ", ")
	if r.Best != "" {
		text = r.Best + " comes closest: " + text
	}
	if r.Tier != "" {
		text = "no " + r.Tier + " has room, " + text
	}
	if r.Part != "" {
		text = "for part " + r.Part + " " + text
	}
	return r.Domain + ": " + text
}

// CopyWords says in one clause how far a copy is. It stays the same for as long as the copy
// goes as expected.
func CopyWords(c snapshot.Copy, now time.Time) string {
	takes := time.Duration(min(c.Data.Transfer(), int64(math.MaxInt64/time.Second))) * time.Second
	clock := func(at int64) string { return time.Unix(0, at).UTC().Format(time.RFC3339) }
	switch t := c.Target; {
	case t.Failed:
		return "which failed and is not tried again: " + t.Why
	case t.Since != 0 && t.Since+int64(takes) > now.UnixNano():
		return "ready at about " + clock(t.Since+int64(takes))
	case t.Since != 0:
		return fmt.Sprintf("which was to take %s when it began at %s", takes, clock(t.Since))
	case t.RetryAt > now.UnixNano():
		return fmt.Sprintf("which failed and is tried again at %s: %s", clock(t.RetryAt), t.Why)
	}
	return fmt.Sprintf("which takes about %s", takes)
}

// DomainWords joins the reasons of domains to one message of bounded length.
func DomainWords(domains []DomainReason) string {
	var parts []string
	for i, d := range domains {
		if i == maxDomains {
			parts = append(parts, fmt.Sprintf("and %d more", len(domains)-i))
			break
		}
		parts = append(parts, d.Words())
	}
	return strings.Join(parts, "; ")
}

// maxMessage bounds what goes into a condition or an event.
const maxMessage = 1024

// Bound cuts a message that is too long to show, without breaking a character.
func Bound(s string) string {
	if len(s) <= maxMessage {
		return s
	}
	return strings.ToValidUTF8(s[:maxMessage-3], "") + "..."
}

// Percent writes a share, in units of 1/resource.ShareUnit, in percent.
func Percent(share int64) string {
	tenths := resource.Part(share, 1000, resource.ShareUnit)
	return fmt.Sprintf("%d.%d%%", tenths/10, tenths%10)
}

// writeClaims writes what the claims of a pod get: a volume that exists by its name,
// one that is made as "new", and devices as pool/device.
func writeClaims(b *strings.Builder, got *claims.Got) {
	if got == nil {
		return
	}
	for _, v := range got.Volumes {
		name := v.Volume
		if name == "" {
			name = "new"
		}
		fmt.Fprintf(b, " %s=%s", v.Claim, name)
	}
	for _, d := range got.Devices {
		var names []string
		if d.Allocation != nil {
			for _, r := range d.Allocation.Devices.Results {
				names = append(names, r.Pool+"/"+r.Device)
			}
		}
		fmt.Fprintf(b, " %s=[%s]", d.Claim, strings.Join(names, ","))
	}
}
