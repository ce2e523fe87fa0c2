package lifecycle

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"slices"
	"strings"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Pod is what the protocol knows of one pod: facts read from the API object.
type Pod struct {
	UID       string
	Namespace string
	Name      string

	Attempt string // gang attempt from the Binding, or made of Group; "" for a pod alone
	Size    int    // members of the attempt, the least number with a Group; 1 without an attempt
	Rank    int    // within the attempt

	// Group is namespace/name of the PodGroup that makes the pod a member where the
	// Binding did not say so, "" else.
	Group string
	// Untold is why the size of Group is not known, "" when it is.
	Untold string
	// Elsewhere is how many members of Group are bound to other nodes.
	Elsewhere int

	Grace     time.Duration // from the stop order to the kill signal
	Deleting  bool          // has a deletion timestamp
	Finished  bool          // its phase in the API is terminal
	Failed    bool          // and Failed
	Finalizer bool          // carries our finalizer

	Intent backends.Key   // recorded intent, "" before step 1
	JobID  backends.JobID // recorded job, "" before step 4
	User   string         // recorded user of the job, "" before step 4
}

// Gang is the members that share one batch job, existing or to come.
type Gang struct {
	Key     backends.Key
	Attempt string
	Size    int
	Members []Pod // by rank, then name
	// Live is how many members were neither being deleted nor finished when the key
	// was made of them.
	Live int
	// JobID is the recorded job: that of the lowest-ranked member with a record.
	JobID backends.JobID
}

// KeyFor names the job of a set of pods: it changes when a member is replaced,
// so that a replacement can never be mistaken for its predecessor. 60 bits of a
// hash make a collision within one cluster negligible.
func KeyFor(owner, attempt string, uids []string) backends.Key {
	sorted := slices.Sorted(slices.Values(uids))
	sum := sha256.Sum256([]byte(owner + "\x00" + attempt + "\x00" + strings.Join(sorted, "\x00")))
	return backends.Key("i" + strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:12]))
}

// Gangs sorts pods into gangs. Pods that carry the key of a recorded job stay
// with it for ever. The others of an attempt form its gang while no job of the
// attempt is recorded; pods that come later than that (an elastic member, the
// replacement of a lost one) are gangs of one, with jobs of their own. Where a
// PodGroup makes the gang there is one attempt for all its life, so that a job
// whose members are all going or have failed does not count there: those that come
// then are a gang again.
//
// The result is ordered by key; equal input in any order gives equal output.
func Gangs(owner string, pods []Pod) []Gang {
	byAttempt := map[string][]Pod{}
	for _, p := range pods {
		attempt := p.Attempt
		if attempt == "" {
			attempt = alone + p.UID
		}
		byAttempt[attempt] = append(byAttempt[attempt], p)
	}
	var out []Gang
	for attempt, members := range byAttempt {
		recorded := map[backends.Key][]Pod{}
		var open []Pod
		for _, p := range members {
			if p.JobID != "" {
				recorded[p.Intent] = append(recorded[p.Intent], p)
			}
		}
		for _, p := range members {
			switch {
			case p.JobID != "":
			case p.Intent != "" && recorded[p.Intent] != nil:
				// A crash between two records: the member belongs to the job.
				recorded[p.Intent] = append(recorded[p.Intent], p)
			default:
				open = append(open, p)
			}
		}
		for key, ms := range recorded {
			out = append(out, gang(key, attempt, ms))
		}
		if stands(recorded) {
			for _, p := range open {
				p.Size, p.Untold = 1, ""
				out = append(out, gang(keyOf(owner, attempt, []Pod{p}), attempt, []Pod{p}))
			}
			continue
		}
		if len(open) > 0 {
			out = append(out, gang(keyOf(owner, attempt, open), attempt, open))
		}
	}
	slices.SortFunc(out, func(a, b Gang) int { return cmp.Compare(a.Key, b.Key) })
	return out
}

// keyOf is the key of pods without a record. Of pods that are all going it is the one
// that they may have been submitted under.
func keyOf(owner, attempt string, open []Pod) backends.Key {
	members := living(open)
	if len(members) == 0 {
		members = slices.SortedFunc(slices.Values(open), Order)
	}
	if members[0].Group != "" {
		return claim(owner, attempt, members)
	}
	uids := make([]string, 0, len(members))
	for _, p := range members {
		uids = append(uids, p.UID)
	}
	return KeyFor(owner, attempt, uids)
}

// stands reports whether a recorded job is that of the attempt.
func stands(recorded map[backends.Key][]Pod) bool {
	for _, members := range recorded {
		for _, p := range members {
			if p.Group == "" || !p.Deleting && !p.Failed {
				return true
			}
		}
	}
	return false
}

func gang(key backends.Key, attempt string, members []Pod) Gang {
	slices.SortFunc(members, Order)
	g := Gang{Key: key, Attempt: attempt, Members: members, Size: 1}
	for _, m := range members {
		if !m.Deleting && !m.Finished {
			g.Live++
		}
		g.Size = max(g.Size, m.Size)
		if g.JobID == "" {
			g.JobID = m.JobID
		}
	}
	return g
}
