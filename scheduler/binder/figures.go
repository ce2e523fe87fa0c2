package binder

import (
	"cmp"
	"slices"
	"time"
)

const (
	// messageEvery is how often a message whose reason stays the same is refreshed at the
	// most: the numbers in it change with every pod that starts or ends in the cluster.
	messageEvery = 30 * time.Second
	// refreshEvery is the time for each of those refreshes beyond the first refreshAtOnce,
	// however many wait: ten thousand gangs behind one that ends are a few writes a second,
	// and their messages some minutes old.
	refreshEvery  = 100 * time.Millisecond
	refreshAtOnce = 100
	// forgetAfter is how long it is known when a message was written. Who is not known is
	// the first to be refreshed.
	forgetAfter = time.Hour
)

// refreshes bounds the writes of messages in which nothing but figures changed. The
// binder's lock guards it.
type refreshes struct {
	last map[string]time.Time // when a message was written, by UID
	next time.Time            // what was granted is paid for until then
	// asked are those of this plan.
	asked []refresh
}

type refresh struct {
	uid  string
	wish wish
}

// wrote notes that a message is as it should be.
func (r *refreshes) wrote(uid string, now time.Time) { r.last[uid] = now }

// ask notes a message of which the figures are no longer right.
func (r *refreshes) ask(uid string, w wish) { r.asked = append(r.asked, refresh{uid, w}) }

// granted are those that may be written now, those whose message is oldest first.
func (r *refreshes) granted(now time.Time) []refresh {
	asked := r.asked
	r.asked = nil
	if len(r.last) > 2*len(asked)+1024 {
		for uid, at := range r.last {
			if now.Sub(at) > forgetAfter {
				delete(r.last, uid)
			}
		}
	}
	if from := now.Add(-refreshAtOnce * refreshEvery); r.next.Before(from) {
		r.next = from
	}
	n := min(int(now.Sub(r.next)/refreshEvery), len(asked))
	if n <= 0 {
		return nil
	}
	slices.SortFunc(asked, func(a, b refresh) int {
		return cmp.Or(r.last[a.uid].Compare(r.last[b.uid]), cmp.Compare(a.uid, b.uid))
	})
	for _, one := range asked[:n] {
		r.last[one.uid] = now
	}
	r.next = r.next.Add(time.Duration(n) * refreshEvery)
	return asked[:n]
}
