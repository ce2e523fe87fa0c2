package cache

import (
	"context"
	"strings"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// role is what may not be read; it is asked again once for what to grant then.
type role struct {
	denied  map[string]bool
	refresh func()
}

func (r *role) Denied(kind string) bool { return r.denied[kind] }
func (r *role) Refresh(context.Context) {
	if r.refresh != nil {
		r.refresh()
	}
}

// TestHandedOver: all that is vital has to be there, and of the rest what may be read;
// what is denied for a moment only is waited for.
func TestHandedOver(t *testing.T) {
	for name, tc := range map[string]struct {
		denied, synced, granted string // by words; granted when it is asked for again
		wants                   string // in the error, "" for none
	}{
		"all there":           {synced: "pods policies"},
		"one is denied":       {synced: "pods", denied: "policies"},
		"a vital one is":      {synced: "policies", denied: "pods", wants: "not listed are pods (no right to list and watch them)"},
		"one is late":         {synced: "pods", wants: "not listed are policies:"},
		"denied for a moment": {synced: "pods", denied: "policies", granted: "policies", wants: "not listed are policies:"},
	} {
		t.Run(name, func(t *testing.T) {
			set := func(words string) map[string]bool {
				out := map[string]bool{}
				for _, w := range strings.Fields(words) {
					out[w] = true
				}
				return out
			}
			r := &role{denied: set(tc.denied)}
			r.refresh = func() {
				for kind := range set(tc.granted) {
					delete(r.denied, kind)
				}
			}
			c := New()
			c.Rights = r
			synced := set(tc.synced)
			var all []followed
			for _, kind := range []string{"pods", "policies"} {
				all = append(all, followed{kind, func() bool { return synced[kind] }})
			}
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if tc.wants == "" {
				ctx = t.Context()
			}
			err := c.handedOver(ctx, all)
			if tc.wants == "" && err != nil || tc.wants != "" && (err == nil || !strings.Contains(err.Error(), tc.wants)) {
				t.Errorf("%v, want %q", err, tc.wants)
			}
		})
	}
}

func TestBlind(t *testing.T) {
	c := New()
	if got := c.Blind(); got != "" {
		t.Errorf("without rights it is blind for %s", got)
	}
	r := &role{denied: map[string]bool{"datasets.hpc.isthmus.sh": true}}
	c.Rights = r
	if got := c.Blind(); got != "" {
		t.Errorf("it is blind for %s", got)
	}
	r.denied["queues.scheduling.volcano.sh"], r.denied["nodes"] = true, true
	if got := c.Blind(); got != "nodes, queues.scheduling.volcano.sh" {
		t.Errorf("it is blind for %q", got)
	}
}

// TestGuard: who is covered by a budget stays while budgets cannot be asked.
func TestGuard(t *testing.T) {
	c := New()
	c.SetNode(node("n", "8"))
	c.SetGroup(podGroup("g", 1))
	covered, bare := bound(pod("a", "g", "1"), "n", "x", 2, 0), bound(pod("b", "g", "1"), "n", "x", 2, 1)
	covered.Labels = map[string]string{"app": "web"}
	c.SetPod(covered)
	c.SetPod(bare)
	c.SetBudget(&policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: covered.Namespace, Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: covered.Labels}},
		Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: 1},
	})
	protected := func() (out []string) {
		for _, p := range c.Snapshot(start).Gangs[0].Pods {
			out = append(out, p.Name+":"+p.Protected)
		}
		return out
	}
	for _, why := range []string{"nobody may ask", ""} {
		c.Guard(why)
		if got := strings.Join(protected(), " "); got != "a:"+why+" b:" {
			t.Errorf("guarded by %q they are %s", why, got)
		}
	}
}
