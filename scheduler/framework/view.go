package framework

import (
	"slices"
	"sort"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// view is a transaction as it would be if some of the pods in it were gone. It is kept
// in step with that transaction, so that many questions about the same future cost
// little more than one: what is asked goes to a fork of it.
type view struct {
	from   *snapshot.Txn
	txn    *snapshot.Txn
	follow *follow
	seen   int   // changes of from that are in
	gone   int   // how many of Session.goes are taken off
	at     int64 // the time until which ends have come
	used   int   // when it was asked for last, in questions
}

// mostViews bounds the views at different times. Each has a pointer for every node, and
// the nodes in order for every class that was asked about.
const mostViews = 24

func newView(from, txn *snapshot.Txn) *view {
	return &view{from: from, txn: txn, follow: newFollow(txn), seen: from.Changes()}
}

// fork returns a transaction that starts as the view is, with what is known of that.
func (s *Session) fork(v *view) *snapshot.Txn {
	txn := v.txn.Fork()
	s.goOn(newFollow(txn))
	s.whatIf.from, s.whatIf.at = v.follow, v.txn.Changes()
	return txn
}

// moved lists the nodes that the view is behind on, each once.
func (v *view) moved() []int {
	changed := v.from.ChangedSince(v.seen)
	v.seen = v.from.Changes()
	out := make([]int, 0, len(changed))
	for _, i := range changed {
		out = append(out, int(i))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// afterLeaving is the session's transaction with everything gone that is going away.
func (s *Session) afterLeaving() *view {
	v := s.future
	stale := v == nil || v.from != s.Txn || !s.Txn.Local() && (v.seen != s.Txn.Changes() || v.gone != len(s.goes))
	if stale {
		v = newView(s.Txn, s.Txn.Fork())
		for _, l := range s.goes {
			v.txn.Remove(l.node, l.item)
		}
		v.gone = len(s.goes)
		s.future = v
		return v
	}
	nodes := v.moved()
	for _, l := range s.goes[v.gone:] {
		nodes = append(nodes, l.node)
	}
	v.gone = len(s.goes)
	slices.Sort(nodes)
	for _, i := range slices.Compact(nodes) {
		v.txn.Mirror(i, v.from, s.goesOn[i])
	}
	return v
}

// afterEnds is the session's transaction when the first n of ends have come. They are
// all until some time.
func (s *Session) afterEnds(n int) *view {
	s.asked++
	at := s.ends[n-1].at
	if len(s.views) > 0 && (s.views[0].from != s.Txn || !s.Txn.Local() && s.views[0].seen != s.Txn.Changes()) {
		s.views = nil
	}
	i := sort.Search(len(s.views), func(i int) bool { return s.views[i].at >= at })
	if i < len(s.views) && s.views[i].at == at {
		v := s.views[i]
		s.catchUp(v)
		v.used = s.asked
		return v
	}
	txn, have := s.Txn, 0
	if i > 0 { // the one before it is nearly there
		s.catchUp(s.views[i-1])
		txn, have = s.views[i-1].txn, s.endedBy(s.views[i-1].at)
	}
	v := newView(s.Txn, txn.Fork())
	v.at, v.used = at, s.asked
	s.end(v.txn, s.ends[have:n])
	s.views = slices.Insert(s.views, i, v)
	if len(s.views) > mostViews {
		oldest := 0
		for k, o := range s.views {
			if o.used < s.views[oldest].used {
				oldest = k
			}
		}
		s.views = slices.Delete(s.views, oldest, oldest+1)
	}
	return v
}

// endedBy counts the ends until a time.
func (s *Session) endedBy(at int64) int {
	return sort.Search(len(s.ends), func(i int) bool { return s.ends[i].at > at })
}

// catchUp brings a view at a time in step with the transaction.
func (s *Session) catchUp(v *view) {
	nodes := v.moved()
	if len(nodes) == 0 {
		return
	}
	on := s.endsByNode()
	for _, i := range nodes {
		var gone []snapshot.Item
		for _, k := range on[i] {
			if s.ends[k].at <= v.at {
				gone = append(gone, s.ends[k].item)
			}
		}
		v.txn.Mirror(i, v.from, gone)
	}
}

// endsByNode lists the positions in ends by node.
func (s *Session) endsByNode() [][]int32 {
	if s.endsOn != nil {
		return s.endsOn
	}
	count := make([]int, len(s.Snapshot.Nodes))
	for i := range s.ends {
		count[s.ends[i].node]++
	}
	all, at := make([]int32, len(s.ends)), 0
	s.endsOn = make([][]int32, len(count))
	for i, n := range count {
		s.endsOn[i] = all[at : at : at+n]
		at += n
	}
	for i := range s.ends {
		node := s.ends[i].node
		s.endsOn[node] = append(s.endsOn[node], int32(i)) //nolint:gosec // a position
	}
	return s.endsOn
}

// end takes off what has ended: node by node, since a node's state is copied for it.
func (s *Session) end(txn *snapshot.Txn, ends []end) {
	if !txn.Local() {
		for _, e := range ends {
			txn.Remove(e.node, e.item)
		}
		return
	}
	by := make([][]snapshot.Item, len(s.Snapshot.Nodes))
	for _, e := range ends {
		by[e.node] = append(by[e.node], e.item)
	}
	for i, items := range by {
		if len(items) > 0 {
			txn.Mirror(i, txn, items)
		}
	}
}
