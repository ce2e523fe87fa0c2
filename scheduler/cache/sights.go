package cache

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// sights is what selectors of pods can tell apart: a label's value that none of them
// names is to all of them like any other such, and a pod of a namespace that none looks
// into like pods of other such namespaces. Pods that nobody can tell apart are of one
// class, so that one pod that selects others does not break up the classes of all.
type sights struct {
	// in is by namespace; everywhere is of selectors that look into namespaces that they
	// do not name.
	in         map[string]*sight
	everywhere *sight
	// spaces says that some look into namespaces by their labels: then these are told apart.
	spaces bool
	// named is how many values are named, and most how many before some are forgotten.
	named, most int
}

// sight is the values that selectors name, by the keys of labels that they name.
type sight struct {
	values map[string]map[string]bool
}

func newSights() *sights { return &sights{in: map[string]*sight{}, most: leastNamed} }

// leastNamed is how many values are remembered at the least before some are forgotten.
const leastNamed = 1024

// unnamed stands for all values of a label that no selector names. It is none that a
// label can have.
const unnamed = "*"

// none reports whether nobody selects anything.
func (s *sights) none() bool { return s.everywhere == nil && len(s.in) == 0 }

// of are the sights that concern pods of a namespace.
func (s *sights) of(namespace string) [2]*sight { return [2]*sight{s.in[namespace], s.everywhere} }

// at returns the sight of a namespace, "" for everywhere, which it makes.
func (s *sights) at(namespace string, a *anew) *sight {
	to := s.in[namespace]
	if namespace == "" {
		to = s.everywhere
	}
	if to != nil {
		return to
	}
	to = &sight{values: map[string]map[string]bool{}}
	if namespace == "" {
		s.everywhere = to
	} else {
		s.in[namespace] = to
	}
	a.see(saw{namespace: namespace})
	return to
}

// learn takes in what a pod says about others, and notes whom that tells apart.
func (s *sights) learn(p *snapshot.Peers, a *anew) {
	p.Terms(func(t snapshot.PeerTerm) {
		scopes := t.Namespaces
		if t.All || t.Spaces != nil {
			scopes = []string{""}
		}
		if t.Spaces != nil && !s.spaces {
			s.spaces, a.all = true, true
		}
		for _, namespace := range scopes {
			to := s.at(namespace, a)
			for key, value := range matchLabels(t.Selector) {
				s.name(to, saw{namespace, key, value}, a)
			}
			if t.Selector == nil {
				continue
			}
			for _, r := range t.Selector.MatchExpressions {
				s.key(to, namespace, r.Key, a)
				for _, value := range r.Values {
					s.name(to, saw{namespace, r.Key, value}, a)
				}
			}
		}
	})
}

func matchLabels(s *metav1.LabelSelector) map[string]string {
	if s == nil {
		return nil
	}
	return s.MatchLabels
}

// key notes that a selector names a key, and returns what values of it are named.
func (s *sights) key(to *sight, namespace, key string, a *anew) map[string]bool {
	values := to.values[key]
	if values == nil {
		values = map[string]bool{}
		to.values[key] = values
		s.named++
		a.see(saw{namespace, key, unnamed})
	}
	return values
}

// name notes that a selector names a value of a label.
func (s *sights) name(to *sight, w saw, a *anew) {
	if values := s.key(to, w.namespace, w.key, a); !values[w.value] {
		values[w.value] = true
		s.named++
		a.see(w)
	}
}

// visible is what selectors see of a pod.
func (s *sights) visible(namespace string, labels map[string]string) (space string, seen map[string]string) {
	if s.spaces || s.in[namespace] != nil {
		space = namespace
	}
	for _, to := range s.of(namespace) {
		if to == nil || len(to.values) == 0 {
			continue
		}
		for k, v := range labels {
			values, known := to.values[k]
			if !known {
				continue
			}
			if seen == nil {
				seen = map[string]string{}
			}
			if _, told := seen[k]; values[v] {
				seen[k] = v
			} else if !told {
				seen[k] = unnamed
			}
		}
	}
	return space, seen
}

// forgetSelectors forgets what no pod's selectors name any more, once there is twice as
// much as when that was done last.
func (c *Cache) forgetSelectors() {
	if c.sights.named <= c.sights.most {
		return
	}
	c.sights = newSights()
	for _, e := range c.pods {
		c.sights.learn(e.spec.Peers, &c.anew)
	}
	c.sights.most = 2*c.sights.named + leastNamed
	c.anew.all = true
}
