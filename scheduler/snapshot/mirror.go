package snapshot

// Local reports whether what is put on one node, or taken off it, says nothing about
// others: no pods care for each other, none claim anything and no hosts are shared.
func (t *Txn) Local() bool {
	return t.peers == nil && t.claims == nil && len(t.s.shared) == 0 && len(t.guards) == 0
}

// Mirror makes a node what it is in another transaction, or in this one, with pods
// taken off there. It cannot be taken back, and both have to be Local.
func (t *Txn) Mirror(node int, of *Txn, gone []Item) {
	st := of.state(node)
	if len(gone) > 0 {
		st = st.clone()
		for _, it := range gone {
			t.s.Nodes[node].free(st, it)
		}
	}
	t.set(node, st)
}

// free takes pods off a state of the node.
func (n *Node) free(st *nodeState, it Item) {
	st.remove(n, it)
	if it.Kept {
		return // neither GPUs nor processors were given
	}
	for i := int64(0); n.gpus != nil && i < it.Count; i++ {
		n.gpus.release(st.gpus, it.Class, it.devices(i))
	}
	if n.numaConcerns(it.Class) {
		n.unseat(st, it)
	}
}
