// Package plan is what a scheduling cycle decided, with the reasons, as data:
// placements to carry out, gangs that wait and why, and the PodGroup statuses
// that should be shown. It has a stable text form. It imports no client and
// holds no behaviour beyond formatting.
package plan

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/scheduler/claims"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Plan is the outcome of one cycle. All slices are in the order of decision,
// which is a function of the snapshot alone.
type Plan struct {
	Placements    []Placement
	Unschedulable []Unschedulable
	Statuses      []Status
	HyperNodes    []NodeCounts
	Reservations  []Reservation
	// Queues are those with which something is wrong, whether or not it was so before.
	Queues []QueueFault
	// Claims are the gangs that room is made for. Everything of one claim is
	// carried out, or as good as nothing.
	Claims []Claim
	// Releases are pods that are sent away for their own gang's sake.
	Releases []Eviction
	// Rounds are those of plugins that had their turn to send pods away: the next of each
	// is to be no sooner than it wants.
	Rounds []Round
	// Opened are pods whose queue has room for them: the gate that kept them out of
	// sight until then is taken away.
	Opened []PodRef
	// Stagings are the gangs of whose PodGroup it is to be said which copies they wait for.
	Stagings []Staging
	// Heads are gangs that wait with a start time that nobody may put off.
	Heads []Head
}

// QueueFault is why a queue starts nothing, or has less than it declares.
type QueueFault struct {
	Queue, UID string
	// Reason is one word, Message a sentence; a queue has each reason at most once.
	Reason, Message string
}

// Claim makes room for a gang: the room is written down first, then the pods in
// the way are evicted.
type Claim struct {
	Gang, GangUID   string
	Namespace, Name string
	// Plain and Native are as the gang has them: there is no PodGroup of Volcano's then.
	Plain, Native bool
	// Action is what decided it: preempt, reclaim, elastic, consolidate or shuffle.
	Action     string
	Nomination snapshot.Nomination
	// For is the key of the gang for whose sake this one is moved, "" for none. The claim
	// of that one is in the plan as well: all are carried out together, or dropped.
	For string
	// Evictions may be none: the room is about to become free by itself, or what was kept
	// is given up, by a nomination that is over when it begins.
	Evictions []Eviction
}

// Moves reports whether the gang is itself what is evicted, to run elsewhere.
func (c Claim) Moves() bool { return len(c.Nomination.Pods) > 0 && c.Nomination.Pods[0].Name != "" }

// Eviction sends one pod away.
type Eviction struct {
	UID, Namespace, Name string
	Gang                 string // the pod's own
	Node                 string
	// Whole says that the pod's whole gang goes; otherwise it keeps its minimum.
	Whole bool
	// Reason is one word, Message one sentence for people.
	Reason, Message string
}

// Round is a plugin's turn to send pods away.
type Round struct {
	Plugin string
	// After is who was looked at last where not all were: others are first next time.
	After string
}

// Staging is which copies a gang waits for, where its PodGroup says otherwise.
type Staging struct {
	Gang, GangUID   string
	Namespace, Name string
	// Want is a JSON object with the cluster by the dataset's name, "" for none.
	Want string
}

// Head is a gang whose start is planned.
type Head struct {
	Gang   string
	Domain string
	// At is when it can start, in nanoseconds since 1970; Guessed says that a gang
	// of unknown run time has to end first.
	At      int64
	Guessed bool
	// For are the gangs that have to end first, in that order, at most a few.
	For []string
}

// Placement is a set of pods to bind that were placed together.
type Placement struct {
	Gang      string // snapshot.GangSpec.Key
	GangUID   string
	Namespace string
	Name      string
	// Domain is the virtual node's name, or RealDomain.
	Domain string
	// Attempt is the attempt these pods complete; "" is a new one, whose id is
	// made when the plan is carried out.
	Attempt string
	// Size is the number of members of the whole attempt.
	Size  int64
	Binds []Bind
	// Run is how long the gang is expected to run, in nanoseconds, 0 when nobody
	// knows, and RunFrom who says so, as snapshot.GangSpec.EstimateFrom has it.
	Run     int64
	RunFrom string
	// Paths are those of the gang's datasets on a virtual node, as a JSON object by
	// name; "" when there are none.
	Paths string
	// ReservedBy is the reservation that keeps the virtual node for the gang; "" for none.
	ReservedBy string
}

// RealDomain is the name of the domain that all real nodes form together.
const RealDomain = "nodes"

// Bind is one pod to bind.
type Bind struct {
	UID       string
	Namespace string
	Name      string
	Node      string
	Rank      int64
	// Devices are the UUIDs of the GPUs the pod gets, with commas, where the node
	// describes them.
	Devices string
	// Cells are the processors that the pod gets by NUMA node, as snapshot.CellsText
	// writes them, where it asks for that.
	Cells string
	// Claims are the volumes and devices that the pod's claims get, as far as they do
	// not have them yet; nil for none. They are seen to before any pod of the
	// placement is bound.
	Claims *claims.Got
}

// Code is why a gang waits, for programs.
type Code string

// The codes.
const (
	QueueNotFound      Code = "QueueNotFound"
	QueueClosed        Code = "QueueClosed"
	QueueInvalid       Code = "QueueInvalid"   // its parent does not exist, or its parents go round in a circle
	OverQuota          Code = "OverQuota"      // its queue, or one above, may not hold that much
	NamespaceQuota     Code = "NamespaceQuota" // a ResourceQuota of its namespace has not that much left
	OutOfTurn          Code = "OutOfTurn"      // its queue is served in order, and one before it waits
	Overcommitted      Code = "Overcommitted"  // enough gangs have been let in for now
	PodGroupNotFound   Code = "PodGroupNotFound"
	NotEnoughPods      Code = "NotEnoughPods"      // fewer pods exist than minMember
	NotEnoughTaskPods  Code = "NotEnoughTaskPods"  // fewer pods of a task exist than its minimum
	Gated              Code = "Gated"              // scheduling gates hold members back
	NoCapacity         Code = "NoCapacity"         // a domain admits the gang, but lacks something
	NodesDontMatch     Code = "NodesDontMatch"     // no domain admits the gang
	AttemptIncomplete  Code = "AttemptIncomplete"  // an attempt lacks a member that no longer exists
	Held               Code = "Held"               // a binding failed a moment ago
	UnsupportedRequest Code = "UnsupportedRequest" // a hard constraint that is not honoured yet
	ClaimsNotMet       Code = "ClaimsNotMet"       // its place was found, and its volumes or devices were not to be had there
	Nominated          Code = "Nominated"          // room is being made for it
	Reserved           Code = "Reserved"           // it would fit, and put off the planned start of another
	DatasetNotFound    Code = "DatasetNotFound"    // it reads a Dataset that does not exist
	DataStaging        Code = "DataStaging"        // what it reads is copied to where it goes
	Quarantined        Code = "Quarantined"        // a cycle that looked at it broke, and it is left out for a while
)

// CapacityKind reports whether more nodes could help: only then is a pod marked
// unschedulable, since that is what autoscalers act on.
func (c Code) CapacityKind() bool { return c == NoCapacity || c == NodesDontMatch }

// Unschedulable says that a gang waits and why.
type Unschedulable struct {
	Gang      string
	GangUID   string
	Namespace string
	Name      string
	Plain     bool
	// Satisfied says that the gang has its minimum and only extra members wait.
	Satisfied bool
	Code      Code
	// Message is one sentence for people.
	Message string
	// Early says that the gang lacks what may be on its way, since its pods are being
	// made: it is told only if it stays so.
	Early bool
	// Domains say what each domain lacks, in the order they were tried.
	Domains []DomainReason
	// Staging are the copies that it waits for, as in Staging.Want.
	Staging string
	// Pods are the members that wait, ordered as in the gang. Nobody changes them: cycles
	// share them.
	Pods []PodRef
}

// PodRef names a pod.
type PodRef = snapshot.PodRef

// DomainReason is why a gang does not go into one domain.
type DomainReason struct {
	Domain string
	Code   Code // NoCapacity or NodesDontMatch
	// Tier, when set, names the closeness that is demanded and cannot be had, Best
	// the place that comes closest, which the rest is about, and Part the part of
	// the gang that demands it.
	Tier, Best, Part string
	// Short are the resources that do not suffice.
	Short []snapshot.Shortage
	// Member is what one member alone needs beyond what any host or node has.
	Member []snapshot.Shortage
	// Wanted and Placed count members when the sum suffices but hosts do not.
	Wanted, Placed int64
	// Nodes counts nodes by the reason that rules them out, in order of reason.
	Nodes []NodeCount
}

// NodeCount is a number of nodes ruled out for one reason; 0 is a reason that is
// about no node in particular.
type NodeCount struct {
	Why   string
	Count int
}

// Status is what a PodGroup's status should say. Only groups whose status
// differs from this are listed.
type Status struct {
	Gang      string
	GangUID   string
	Namespace string
	Name      string
	Want      snapshot.GroupStatus
	// ShortSince is since when the gang is short, in nanoseconds since 1970, 0 when it is
	// not: the time of its condition Stale, by which a scheduler after this one goes on.
	ShortSince int64
	// Native says that the group is of Kubernetes' own API, of whose status only
	// the conditions are ours.
	Native bool
}

// NodeCounts is how many nodes a HyperNode has, where its status says otherwise.
type NodeCounts struct {
	HyperNode string
	UID       string
	Count     int64
	// Problem says which of its members could not be understood.
	Problem string
}

// Reservation is what a reservation's status should say, where it says otherwise.
type Reservation struct {
	Name, UID string
	Want      snapshot.ReservationStatus
}

// String is the stable text form: one line a fact.
func (p Plan) String() string {
	var b strings.Builder
	for _, pl := range p.Placements {
		fmt.Fprintf(&b, "place %s domain=%s size=%d", short(pl.Gang), pl.Domain, pl.Size)
		if pl.ReservedBy != "" {
			fmt.Fprintf(&b, " reserved-by=%s", pl.ReservedBy)
		}
		if pl.Attempt != "" {
			fmt.Fprintf(&b, " attempt=%s", pl.Attempt)
		}
		b.WriteByte('\n')
		for _, bind := range pl.Binds {
			fmt.Fprintf(&b, "  bind %s -> %s rank=%d", bind.Name, bind.Node, bind.Rank)
			if bind.Devices != "" {
				fmt.Fprintf(&b, " devices=%s", bind.Devices)
			}
			if bind.Cells != "" {
				fmt.Fprintf(&b, " numa=%s", bind.Cells)
			}
			writeClaims(&b, bind.Claims)
			b.WriteByte('\n')
		}
	}
	for _, c := range p.Claims {
		what := "claim"
		if c.Moves() {
			what = "move"
		}
		fmt.Fprintf(&b, "%s %s by %s domain=%s pods=%d\n", what, short(c.Gang), c.Action, c.Nomination.Domain, len(c.Nomination.Pods))
		for _, e := range c.Evictions {
			fmt.Fprintf(&b, "  evict %s from %s: %s\n", e.Name, e.Node, e.Message)
		}
	}
	for _, e := range p.Releases {
		fmt.Fprintf(&b, "release %s from %s: %s\n", e.Name, e.Node, e.Message)
	}
	for _, ref := range p.Opened {
		fmt.Fprintf(&b, "open %s\n", ref.Name)
	}
	for _, h := range p.Heads {
		fmt.Fprintf(&b, "head %s domain=%s at=%s", short(h.Gang), h.Domain, time.Unix(0, h.At).UTC().Format(time.RFC3339))
		if h.Guessed {
			b.WriteString(" guessed")
		}
		b.WriteByte('\n')
	}
	for _, u := range p.Unschedulable {
		early := ""
		if u.Early {
			early = " early"
		}
		fmt.Fprintf(&b, "wait %s %s%s: %s\n", short(u.Gang), u.Code, early, u.Message)
	}
	for _, s := range p.Stagings {
		fmt.Fprintf(&b, "stage %s %s\n", short(s.Gang), cmp.Or(s.Want, "nothing"))
	}
	for _, s := range p.Statuses {
		fmt.Fprintf(&b, "status %s phase=%s running=%d succeeded=%d failed=%d", short(s.Gang), s.Want.Phase, s.Want.Running, s.Want.Succeeded, s.Want.Failed)
		for _, c := range s.Want.Conditions {
			fmt.Fprintf(&b, " %s=%s", c.Type, c.Status)
			if c.Reason != "" {
				fmt.Fprintf(&b, "(%s)", c.Reason)
			}
		}
		b.WriteByte('\n')
	}
	for _, h := range p.HyperNodes {
		fmt.Fprintf(&b, "hypernode %s nodes=%d", h.HyperNode, h.Count)
		if h.Problem != "" {
			fmt.Fprintf(&b, " problem=%q", h.Problem)
		}
		b.WriteByte('\n')
	}
	for _, q := range p.Queues {
		fmt.Fprintf(&b, "queue %s %s: %s\n", q.Queue, q.Reason, q.Message)
	}
	for _, r := range p.Reservations {
		fmt.Fprintf(&b, "reservation %s phase=%s nodes=%d pieces=%d held=%t %s: %s\n", r.Name, r.Want.Phase, r.Want.Nodes, r.Want.Pieces, r.Want.Held, r.Want.Reason, r.Want.Message)
	}
	return b.String()
}

// short leaves out the part of a key that says nothing in the default namespace.
func short(key string) string {
	return strings.TrimPrefix(strings.TrimPrefix(key, "podgroup/default/"), "pod/default/")
}
