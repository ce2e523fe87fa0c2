package queue

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"
	"sigs.k8s.io/controller-runtime/pkg/client"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
	"github.com/isthmus-hpc/isthmus/controllers/queuetree"
)

func order(queue string, action bus.Action) *bus.Command {
	return &bus.Command{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}, Action: string(action),
		TargetObject: &metav1.OwnerReference{APIVersion: scheduling.SchemeGroupVersion.String(), Kind: "Queue", Name: queue}}
}

func states(queues []scheduling.Queue) string {
	var out []string
	for _, q := range queues {
		text := fmt.Sprintf("%s=%s", q.Name, q.Status.State)
		if q.Annotations[closedByParent] == "true" {
			text += "*"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}

// Closing takes the queues beneath along; opening brings back what closing took,
// and nothing that its owner closed.
func TestOperate(t *testing.T) {
	t.Parallel()
	const open, closed = bus.OpenQueueAction, bus.CloseQueueAction
	for name, tt := range map[string]struct {
		commands []*bus.Command
		want     string
		refusal  string // of the last
	}{
		"close a leaf":                 {[]*bus.Command{order("a1", closed)}, "root= a= a1=Closing a2=Closed b=", ""},
		"close a parent":               {[]*bus.Command{order("a", closed)}, "root= a=Closing a1=Closing* a2=Closed b=", ""},
		"and open it":                  {[]*bus.Command{order("a", closed), order("a", open)}, "root= a=Open a1=Open a2=Closed b=", ""},
		"twice":                        {[]*bus.Command{order("a", closed), order("a", closed), order("a", open), order("a", open)}, "root= a=Open a1=Open a2=Closed b=", ""},
		"open beneath a closed parent": {[]*bus.Command{order("a", closed), order("a1", open)}, "root= a=Closing a1=Closing* a2=Closed b=", "its parent a is Closing"},
		"closed by its owner as well":  {[]*bus.Command{order("a", closed), order("a1", closed), order("a", open)}, "root= a=Open a1=Closing a2=Closed b=", ""},
		"open what its owner closed":   {[]*bus.Command{order("a2", open)}, "root= a= a1= a2=Open b=", ""},
		"root":                         {[]*bus.Command{order("root", closed)}, "root= a= a1= a2=Closed b=", "never closed"},
		"absent":                       {[]*bus.Command{order("z", closed)}, "root= a= a1= a2=Closed b=", "there is no queue z"},
		"another action":               {[]*bus.Command{order("b", "Dance")}, "root= a= a1= a2=Closed b=", `not "Dance"`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			queues := []scheduling.Queue{queueNamed("root", "", ""), queueNamed("a", "", ""), queueNamed("a1", "a", ""), queueNamed("a2", "a", "Closed"), queueNamed("b", "root", "")}
			refusal := ""
			for _, c := range tt.commands {
				refusal = operate(queues, c)
			}
			if got := states(queues); got != tt.want || (tt.refusal == "") != (refusal == "") || !strings.Contains(refusal, tt.refusal) {
				t.Errorf("%s (%q), want %s (%q)", got, refusal, tt.want, tt.refusal)
			}
		})
	}
	stale := order("a", closed)
	stale.TargetObject.UID = types.UID("other")
	if refusal := operate([]scheduling.Queue{queueNamed("a", "", "")}, stale); !strings.Contains(refusal, "earlier queue") {
		t.Errorf("%q", refusal)
	}
}

// Whatever the tree, also one with loops: closing and opening again is as before
// but for the queue itself, and no open queue is beneath a closed one.
func TestOperateOnAnyTree(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 8).Draw(t, "queues")
		queues := []scheduling.Queue{queueNamed("root", "", "")}
		for i := 1; i < n; i++ {
			queues = append(queues, queueNamed(fmt.Sprint("q", i), fmt.Sprint("q", rapid.IntRange(0, n-1).Draw(t, "parent")), ""))
		}
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			name := queues[rapid.IntRange(0, n-1).Draw(t, "queue")].Name
			before := states(queues)
			action := rapid.SampledFrom([]bus.Action{bus.OpenQueueAction, bus.CloseQueueAction}).Draw(t, "action")
			if operate(queues, order(name, action)) != "" && states(queues) != before {
				t.Fatalf("refused and done: %s, %s", before, states(queues))
			}
			once := states(queues)
			if operate(queues, order(name, action)); states(queues) != once {
				t.Fatalf("once %s, twice %s", once, states(queues))
			}
			for i := range queues {
				parent := queuetree.Parent(&queues[i])
				at := slices.IndexFunc(queues, func(q scheduling.Queue) bool { return q.Name == parent })
				if at >= 0 && queuetree.IsOpen(&queues[i]) && !queuetree.IsOpen(&queues[at]) && action == bus.CloseQueueAction {
					t.Fatalf("%s is open beneath %s: %s", queues[i].Name, parent, states(queues))
				}
			}
		}
	})
}

// checkCommands is a family of queues closed and opened as vcctl does it.
func checkCommands(t *testing.T) {
	t.Helper()
	for name, parent := range map[string]string{"family": "", "child": "family"} {
		q := queueNamed(name, parent, "")
		q.Status.Allocated = corev1.ResourceList{}
		if err := plane.Client.Create(t.Context(), &q); err != nil {
			t.Fatal(err)
		}
	}
	ns := plane.Namespace(t)
	group := groupIn("g", "child", scheduling.PodGroupRunning)
	group.Namespace = ns
	if err := plane.Client.Create(t.Context(), &group); err != nil {
		t.Fatal(err)
	}
	give := func(name string, action bus.Action) {
		t.Helper()
		c := order(name, action)
		c.Name, c.GenerateName = "", name+"-"
		if err := plane.Client.Create(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		controllertest.Eventually(t, 30*time.Second, func(ctx context.Context) string {
			var list bus.CommandList
			if err := plane.Client.List(ctx, &list); err != nil {
				return err.Error()
			}
			return map[bool]string{true: "the command is still there"}[len(list.Items) > 0]
		})
	}
	shows := func(want string) {
		t.Helper()
		controllertest.Eventually(t, 30*time.Second, func(ctx context.Context) string {
			queues := make([]scheduling.Queue, 2)
			for i, name := range []string{"family", "child"} {
				if err := plane.Client.Get(ctx, client.ObjectKey{Name: name}, &queues[i]); err != nil {
					return err.Error()
				}
			}
			if got := states(queues); got != want {
				return got + ", want " + want
			}
			return ""
		})
	}
	shows("family=Open child=Open")
	give("family", bus.CloseQueueAction)
	shows("family=Closed child=Closing*")
	give("child", bus.OpenQueueAction) // refused
	shows("family=Closed child=Closing*")
	if err := plane.Client.Delete(t.Context(), &group); err != nil {
		t.Fatal(err)
	}
	shows("family=Closed child=Closed*")
	give("family", bus.OpenQueueAction)
	shows("family=Open child=Open")
}
