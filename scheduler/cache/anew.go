package cache

// anew is what the next snapshot has to look at again of pods that did not change. It is
// gathered, and done once: whoever makes pods or budgets chooses how often it is noted.
type anew struct {
	all        bool            // whatever labels and namespaces
	keys       map[string]bool // pods with labels of these keys
	namespaces map[string]bool // pods in these
}

// key notes that pods with labels of a key are told apart by them from now on.
func (a *anew) key(name string) {
	if a.keys == nil {
		a.keys = map[string]bool{}
	}
	a.keys[name] = true
}

// namespace notes that the budgets of a namespace are others.
func (a *anew) namespace(name string) {
	if a.namespaces == nil {
		a.namespaces = map[string]bool{}
	}
	a.namespaces[name] = true
}

func (a *anew) nothing() bool { return !a.all && len(a.keys) == 0 && len(a.namespaces) == 0 }

func (a *anew) selects(e *podEntry) bool {
	if a.all {
		return true
	}
	if len(a.keys) > 0 {
		for k := range e.labels {
			if a.keys[k] {
				return true
			}
		}
	}
	return false
}

// lookAnew does what was noted since the last snapshot.
func (c *Cache) lookAnew() {
	if c.anew.nothing() {
		return
	}
	for _, e := range c.pods {
		if c.anew.selects(e) {
			c.visible(e)
			if n := c.nodes[e.on]; n != nil {
				n.snap = nil
			}
			if e.gang != "" {
				c.gang(e.gang).snap = nil
			}
		}
		if c.anew.namespaces[e.pod.Namespace] {
			c.touch(e)
		}
	}
	c.anew = anew{}
}
