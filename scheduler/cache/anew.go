package cache

// anew is what the next snapshot has to look at again of pods that did not change. It is
// gathered, and done once: whoever makes pods or budgets chooses how often it is noted.
type anew struct {
	all        bool            // whatever labels and namespaces
	saw        map[saw]bool    // pods of which this is to be seen
	in         map[string]bool // the namespaces of these, "" for any
	namespaces map[string]bool // pods in these
}

// saw is pods of a namespace, "" for any, with a value of a label: unnamed is any value,
// and no key any pod.
type saw struct{ namespace, key, value string }

// see notes that pods are told apart by something from now on.
func (a *anew) see(w saw) {
	if a.saw == nil {
		a.saw, a.in = map[saw]bool{}, map[string]bool{}
	}
	a.saw[w], a.in[w.namespace] = true, true
}

// namespace notes that the budgets of a namespace are others.
func (a *anew) namespace(name string) {
	if a.namespaces == nil {
		a.namespaces = map[string]bool{}
	}
	a.namespaces[name] = true
}

func (a *anew) nothing() bool { return !a.all && len(a.saw) == 0 && len(a.namespaces) == 0 }

func (a *anew) selects(e *podEntry) bool {
	if a.all {
		return true
	}
	for _, namespace := range [2]string{"", e.pod.Namespace} {
		if !a.in[namespace] {
			continue // as of nearly all pods: most select in their own namespace
		}
		if a.saw[saw{namespace: namespace}] {
			return true
		}
		for k, v := range e.labels {
			if a.saw[saw{namespace, k, unnamed}] || a.saw[saw{namespace, k, v}] {
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
			was := e.class
			if c.visible(e); e.class != was {
				if n := c.nodes[e.on]; n != nil {
					n.snap = nil
				}
				if e.gang != "" {
					c.gang(e.gang).snap = nil
				}
			}
		}
		if c.anew.namespaces[e.pod.Namespace] {
			c.touch(e)
		}
	}
	c.anew = anew{}
}
