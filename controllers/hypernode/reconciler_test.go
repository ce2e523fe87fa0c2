package hypernode

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/controllertest"
)

var plane *controllertest.Plane

func TestMain(m *testing.M) { os.Exit(controllertest.Main(m, &plane)) }

// HyperNodes follow the labels of nodes and Slurm's file; a file that cannot be
// read takes none away, and a user's HyperNode is never touched.
func TestDiscovery(t *testing.T) {
	file := filepath.Join(t.TempDir(), "topology.conf")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("SwitchName=s0 Nodes=n[1-2]\n")
	plane.Run(t, ctrl.Options{}, func(_ context.Context, mgr ctrl.Manager) error {
		r := &Reconciler{Client: mgr.GetClient(), Levels: []string{"rack", "row"}, SlurmFile: file, Every: 100 * time.Millisecond}
		return r.SetupWithManager(mgr)
	})
	see := func(want string) {
		t.Helper()
		controllertest.Eventually(t, time.Minute, func(ctx context.Context) string {
			var list topology.HyperNodeList
			if err := plane.Client.List(ctx, &list, client.HasLabels{SourceLabel}); err != nil {
				return err.Error()
			}
			if got := text(list.Items); got != want {
				return fmt.Sprintf("got\n%s\nwant\n%s", got, want)
			}
			return ""
		})
	}
	create := func(o client.Object) {
		t.Helper()
		if err := plane.Client.Create(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
	own := &topology.HyperNode{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: topology.HyperNodeSpec{Tier: 1, Members: []topology.MemberSpec{member(topology.MemberTypeNode, "n1")}}}
	create(own)
	n1 := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"rack": "a", "row": "x"}}}
	create(n1)
	const ofN1 = "1 label-a map[rack:a row:x][]\n"
	see(ofN1 + "1 slurm-s0 n1\n2 label-x +label-a")
	create(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2", Labels: map[string]string{"rack": "b", "row": "x"}}})
	see(ofN1 + "1 label-b map[rack:b row:x][]\n1 slurm-s0 n1 n2\n2 label-x +label-a +label-b")
	write("SwitchName=s0 Nodes=n[1-")
	if err := plane.Client.Delete(t.Context(), n1); err != nil {
		t.Fatal(err)
	}
	see("1 label-b map[rack:b row:x][]\n1 slurm-s0 n1 n2\n2 label-x +label-b")
	write("SwitchName=leaf Nodes=n2\nSwitchName=top Switches=leaf\n")
	see("1 label-b map[rack:b row:x][]\n1 slurm-leaf n2\n2 label-x +label-b\n2 slurm-top +slurm-leaf")
	// What somebody changes or deletes of ours comes back.
	var list topology.HyperNodeList
	if err := plane.Client.List(t.Context(), &list, client.MatchingLabels{SourceLabel: SourceSlurm}); err != nil {
		t.Fatal(err)
	}
	for i := range list.Items {
		changed := list.Items[i].DeepCopy()
		changed.Spec.Tier = 7
		if err := plane.Client.Patch(t.Context(), changed, client.MergeFrom(&list.Items[i])); err != nil {
			t.Fatal(err)
		}
	}
	see("1 label-b map[rack:b row:x][]\n1 slurm-leaf n2\n2 label-x +label-b\n2 slurm-top +slurm-leaf")
	if err := plane.Client.Get(t.Context(), client.ObjectKeyFromObject(own), own); err != nil || own.Generation != 1 {
		t.Errorf("the user's HyperNode: %v, generation %d", err, own.Generation)
	}
}
