package whatif

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// spared is pods of one gang that would go, were it not for what protects them.
type spared struct {
	pos   int // of the gang among the holders
	pods  int
	holds resource.Vector
	// why is what protects them, "" their minimum run time, which is over at until, in
	// nanoseconds since 1970.
	why   string
	until int64
}

// spare is the rest of a gang that stays since some of its pods may not go now, nil where
// that is so for a moment only.
func (r Rules) spare(s *framework.Session, core []*snapshot.Pod) *spared {
	out := &spared{pods: len(core), holds: make(resource.Vector, s.Snapshot.Dims.Len())}
	for _, p := range core {
		switch {
		case p.Assumed:
			return nil
		case r.mayGo(s, p):
		case p.Protected != "":
			out.why = cmp.Or(out.why, p.Protected)
		default:
			out.until = max(out.until, resource.Add(p.StartedAt, r.safe(p)))
		}
		out.holds.AddScaled(p.Class.Request, 1)
	}
	return out
}

type closedKey struct{}

// closed are the disruption budgets that allow no eviction, nil for none.
func closed(s *framework.Session) map[string]bool {
	return s.Note(closedKey{}, func() any { //nolint:forcetypeassert // only this package makes notes under its own key
		var out map[string]bool
		for _, b := range s.Snapshot.Budgets {
			if b.Allowed <= 0 {
				if out == nil {
					out = map[string]bool{}
				}
				out[b.Name] = true
			}
		}
		return out
	}).(map[string]bool)
}

// covered is a unit that stays since a budget allows no eviction, nil for one that may go.
func covered(s *framework.Session, u *Unit) *spared {
	no := closed(s)
	if no == nil {
		return nil
	}
	for _, p := range u.Pods {
		for _, b := range p.Budgets {
			if no[b] {
				return &spared{pods: len(u.Pods), holds: u.Asks, why: "disruption budget " + b + " allows no eviction"}
			}
		}
	}
	return nil
}

type sparedKey struct{}

// lastSpared is where the last list of units leaves who was spared.
func lastSpared(s *framework.Session) *[]*spared {
	return s.Note(sparedKey{}, func() any { return new([]*spared) }).(*[]*spared) //nolint:forcetypeassert // only this package makes notes under its own key
}

// mostReasons bounds what protects pods in one message.
const mostReasons = 3

// sparedWords says who was spared, and what they hold, as of so many claims.
type sparedWords struct {
	claims int
	text   string
	holds  resource.Vector
}

// tell adds to the reason why a gang waits that others hold what it lacks and are spared, if
// so. It reports whether there is nobody to tell of, whoever asks.
func (c *candidates) tell(s *framework.Session, a Ask) bool {
	if len(c.spared) == 0 || !a.TellSpared {
		return true
	}
	u := s.Waits(a.Blocked.Gang)
	if u == nil || u.Code != plan.NoCapacity {
		return false
	}
	if c.words == nil || c.words.claims != len(s.Plan.Claims) {
		c.words = saySpared(s, a.Action, c.spared)
	}
	if c.words.text != "" && c.wouldDo(s, u) && !strings.Contains(u.Message, c.words.text) {
		u.Message = plan.Bound(u.Message + "; " + c.words.text)
	}
	return false
}

// wouldDo reports whether what a gang lacks of some domain is no more than those hold who
// might go and those who are spared.
func (c *candidates) wouldDo(s *framework.Session, u *plan.Unschedulable) bool {
	return slices.ContainsFunc(u.Domains, func(d plan.DomainReason) bool {
		return len(d.Short) > 0 && !slices.ContainsFunc(d.Short, func(short snapshot.Shortage) bool {
			i, ok := s.Snapshot.Dims.Index(short.Resource)
			if !ok || c.words.holds[i] <= 0 {
				return true
			}
			could := resource.Add(short.Free, c.words.holds[i])
			for _, holds := range c.hold {
				could = resource.Add(could, holds[i])
			}
			return could < short.Need
		})
	})
}

func saySpared(s *framework.Session, action string, all []*spared) *sparedWords {
	out := &sparedWords{claims: len(s.Plan.Claims), holds: make(resource.Vector, s.Snapshot.Dims.Len())}
	now := holdersOf(s).now
	total, soonest := 0, int64(0)
	pods := map[string]int{}
	for _, sp := range all {
		if now[sp.pos].busy {
			continue
		}
		total += sp.pods
		out.holds.AddScaled(sp.holds, 1)
		pods[sp.why] += sp.pods
		if sp.why == "" && (soonest == 0 || sp.until < soonest) {
			soonest = sp.until
		}
	}
	if total == 0 {
		return out
	}
	var whys []string
	for why := range pods {
		whys = append(whys, why)
	}
	slices.SortFunc(whys, func(a, b string) int { return cmp.Or(cmp.Compare(pods[b], pods[a]), strings.Compare(a, b)) })
	var text strings.Builder
	fmt.Fprintf(&text, "%s might make room but spares %d pods: ", action, total)
	for i, why := range whys {
		if i > 0 {
			text.WriteString(", ")
		}
		if i == mostReasons {
			fmt.Fprintf(&text, "and others for %d more reasons", len(whys)-i)
			break
		}
		if why == "" {
			fmt.Fprintf(&text, "%d for their minimum run time, until %s at the soonest", pods[why], time.Unix(0, soonest).UTC().Format(time.RFC3339))
		} else {
			fmt.Fprintf(&text, "%d since %s", pods[why], why)
		}
	}
	out.text = text.String()
	return out
}
