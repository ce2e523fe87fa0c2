package lifecycle

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/isthmus-hpc/isthmus/backends"
)

// Which pods make the gang of a PodGroup is for each daemon to see for itself, and
// two that serve one node see it at different times. They agree through the pods:
//
//   - The intent on the lead, the lowest of the members, is the claim to them all. It
//     is written first and alone; that write wins or fails as a whole.
//   - A claim that is made again, for other members or by who lost it, has a round
//     that none of its members has seen: a key never comes back to its lead.
//   - A member is taken from another claim only after that claim's lead was, or with
//     the proof of the API server that no lead has it any more.
//   - The job is recorded on the lead first, while that has the claim.
//
// So when a record is written all members have the claim, and nobody takes one of
// them from then on: of two claims to one pod one is recorded at most.

const (
	// keyLength is that of a key without a round; one with it has two more, which is
	// what names of jobs have room for.
	keyLength = 13
	roundBase = 36
	rounds    = roundBase * roundBase
)

// KeyAlone is the key of a pod that is no member of anything.
func KeyAlone(owner, uid string) backends.Key {
	return KeyFor(owner, alone+uid, []string{uid})
}

// alone begins the attempts of pods that are no members of anything.
const alone = "pod/"

// roundOf is how often members had been claimed anew before this claim.
func roundOf(key backends.Key) int {
	if len(key) <= keyLength {
		return 0
	}
	n, err := strconv.ParseInt(string(key[keyLength:]), roundBase, 16)
	if err != nil || n < 0 || n >= rounds {
		return 0
	}
	return int(n)
}

// inRound is the key of a later claim.
func inRound(key backends.Key, round int) backends.Key {
	if round == 0 {
		return key
	}
	return key + backends.Key(strconv.FormatInt(int64(round), roundBase))
}

// without gives a key without its round.
func without(key backends.Key) backends.Key { return key[:min(len(key), keyLength)] }

// Later reports whether a claim may follow another on a member. Rounds go round.
func Later(key, other backends.Key) bool { return later(roundOf(key), roundOf(other)) }

func later(round, other int) bool {
	ahead := (round - other + rounds) % rounds
	return ahead > 0 && ahead < rounds/2
}

// claim is the key of a gang that a PodGroup makes of pods in order: the one that its
// lead has already, else one that none of them has had.
func claim(owner, attempt string, members []Pod) backends.Key {
	uids := make([]string, 0, len(members))
	// Whoever made the pod may have written any text there.
	has, last := members[0].Intent, -1
	stands := true
	for _, p := range members {
		uids = append(uids, p.UID)
		if p.Intent != "" {
			if r := roundOf(p.Intent); last < 0 || later(r, last) {
				last = r
			}
			stands = stands && (p.Intent == has || Later(has, p.Intent))
		}
	}
	key := KeyFor(owner, attempt, uids)
	if stands && has == inRound(key, roundOf(has)) {
		return has
	}
	return inRound(key, (last+1)%rounds)
}

// Claims reports whether key is the claim to exactly these pods, in any order.
func Claims(owner, attempt string, key backends.Key, pods []Pod) bool {
	uids := make([]string, 0, len(pods))
	for _, p := range pods {
		uids = append(uids, p.UID)
	}
	key = without(key)
	return key == KeyFor(owner, attempt, uids) || len(uids) == 1 && key == KeyAlone(owner, uids[0])
}

// Order sorts members as ranks are given. Members by their PodGroup have no ranks:
// worker-10 comes after worker-9.
func Order(a, b Pod) int {
	return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(len(a.Name), len(b.Name)), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
}

// living are the members that a job would run, in order.
func living(members []Pod) []Pod {
	out := slices.DeleteFunc(slices.Clone(members), func(p Pod) bool { return p.Deleting || p.Finished })
	slices.SortFunc(out, Order)
	return out
}
