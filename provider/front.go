package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/inventory"
	"github.com/isthmus-hpc/isthmus/provider/reservation"
)

// Version is shown as the kubelet version of virtual nodes. The part before the
// "+" names the Kubernetes API that the daemon is built for.
const Version = "v1.37.2+isthmus"

// inventoryInterval is how often hosts and partitions are listed.
const inventoryInterval = 30 * time.Second

// front is what users and schedulers see of a BatchCluster: the node objects
// and its status.
type front struct {
	daemon  *Daemon
	cluster *hpcv1alpha1.BatchCluster
	system  System
	bridge  *Bridge
	pods    *podInformers
	nodes   *nodeSet
	run     context.Context // lives as long as the configuration is served

	inventory backends.Inventory
	readAt    time.Time
	readErr   error
	since     time.Time // when reachability last changed
	reachable bool
	base      []inventory.View // of the nodes that are configured
	views     []inventory.View // those, and of nodes that were and still have pods
	earlier   map[string]hpcv1alpha1.VirtualNode
	retired   map[string]bool
	applied   map[string]*corev1.Node
	reported  hpcv1alpha1.BatchClusterStatus

	reservations *Reservations // nil where the batch system makes none
	stale        bool          // the inventory, because of what we did
}

// begin lists the inventory for the first time and opens the nodes. A batch
// system that does not answer at the start is shown and waited for, so that the
// pods of an earlier life are served whatever happens.
func (f *front) begin(ctx context.Context) error {
	f.applied = map[string]*corev1.Node{}
	f.since = time.Now()
	f.reachable = true
	f.remember(ctx)
	f.refresh(ctx)
	err := f.publish(ctx)
	if ctx.Err() != nil {
		return err
	}
	if err != nil { // a status that could not be written is written later
		f.daemon.Log.Info("could not publish the nodes", "error", err.Error())
	}
	return nil
}

// remember finds the virtual nodes of an earlier configuration or life. Their
// pods are served to their end, whatever is configured now: to a daemon that
// does not see those pods, their jobs would look ownerless.
func (f *front) remember(ctx context.Context) {
	f.earlier = map[string]hpcv1alpha1.VirtualNode{}
	for _, n := range f.cluster.Status.Nodes {
		f.earlier[n.Name] = hpcv1alpha1.VirtualNode{Name: n.Name, Partition: n.Partition}
	}
	list, err := f.daemon.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: wellknown.VirtualNode + "=true"})
	if err != nil {
		f.daemon.Log.Info("could not list the nodes of earlier configurations", "error", err.Error())
		return
	}
	for _, n := range list.Items {
		if n.Spec.ProviderID == wellknown.ProviderIDScheme+f.cluster.Name+"/"+n.Name {
			f.earlier[n.Name] = hpcv1alpha1.VirtualNode{Name: n.Name, Partition: n.Labels[wellknown.Partition]}
		}
	}
}

// after runs behind every pass of the bridge.
func (f *front) after(ctx context.Context, fresh bool) {
	if !fresh || ctx.Err() != nil {
		return
	}
	if time.Since(f.readAt) >= inventoryInterval || f.readErr != nil || f.stale {
		f.refresh(ctx)
	}
	if err := f.publish(ctx); err != nil && ctx.Err() == nil {
		f.daemon.Log.Info("could not publish the nodes", "error", err.Error())
	}
}

// refresh lists hosts and partitions; the last good list stays on failure.
func (f *front) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, readDeadline)
	defer cancel()
	inv, err := f.system.Backend.Inventory(ctx)
	f.readErr = err
	if err == nil {
		f.inventory, f.readAt, f.stale = inv, time.Now(), false
	}
}

// publish brings nodes and status up to date.
func (f *front) publish(ctx context.Context) error {
	v := f.bridge.View()
	err := v.Err
	if err == nil {
		err = f.readErr
	}
	if reachable := err == nil; reachable != f.reachable {
		f.reachable, f.since = reachable, time.Now()
	}
	vnodes := f.cluster.Spec.Nodes
	switch {
	case len(vnodes) > 0:
	case f.readAt.IsZero(): // it never answered: nodes that are there stay alive
		for _, name := range slices.Sorted(maps.Keys(f.earlier)) {
			vnodes = append(vnodes, f.earlier[name])
		}
	default:
		vnodes = inventory.Defaults(f.cluster.Name, f.inventory)
	}
	if len(f.inventory.Partitions) > 0 || len(f.base) == 0 {
		f.look(vnodes)
		if f.reachable && !f.readAt.IsZero() && f.reserve(ctx) {
			f.look(vnodes)
		}
	}
	for i := range f.base {
		if f.readAt.IsZero() {
			f.base[i].Problem = "the batch system has not answered yet"
		}
		n := f.base[i].VirtualNode
		f.earlier[n.Name] = hpcv1alpha1.VirtualNode{Name: n.Name, Partition: n.Partition}
	}
	names := slices.Sorted(maps.Keys(f.earlier))
	if !f.pods.Watch(ctx, f.run, names) {
		return fmt.Errorf("wait for the pods of %v: %w", names, ctx.Err())
	}
	f.retire(names)
	served := make([]hpcv1alpha1.VirtualNode, 0, len(f.views))
	for _, view := range f.views {
		served = append(served, view.VirtualNode)
	}
	f.bridge.SetVirtualNodes(served)
	f.bridge.SetPartitions(f.views)
	queues := f.bridge.queues(v)
	f.applyNodes(queues, err)
	return f.report(ctx, v, queues, err)
}

// look sums up the virtual nodes.
func (f *front) look(vnodes []hpcv1alpha1.VirtualNode) {
	use := f.bridge.Use()
	for node, hosts := range f.reservations.Keeps(f.inventory) {
		u := use[node]
		u.Reserved = hosts
		use[node] = u
	}
	f.base = inventory.Views(vnodes, f.inventory, use, capabilities(f.cluster, f.system.Backend))
}

// reserve sees to the reservations of the virtual nodes, and reports whether those
// have hosts by them that did not count when they were summed up.
func (f *front) reserve(ctx context.Context) (more bool) {
	nodes := make([]reservation.Node, 0, len(f.base))
	for i := range f.base {
		v := &f.base[i]
		nodes = append(nodes, reservation.Node{
			Name: v.VirtualNode.Name, Labels: inventory.Labels(*v, f.cluster.Name), Hosts: v.Members, Reservation: v.VirtualNode.Reservation,
		})
	}
	before := f.reservations.Keeps(f.inventory)
	f.stale = f.reservations.Pass(ctx, nodes) || f.stale
	return !equality.Semantic.DeepEqual(before, f.reservations.Keeps(f.inventory))
}

// retire keeps nodes alive that are no longer configured and still have pods:
// their lease goes on, or Kubernetes would evict those, and nothing new fits.
func (f *front) retire(names []string) {
	f.views, f.retired = slices.Clone(f.base), map[string]bool{}
	for _, name := range names {
		if slices.ContainsFunc(f.base, func(v inventory.View) bool { return v.VirtualNode.Name == name }) {
			continue
		}
		if f.pods.Unfinished(name) == 0 {
			continue
		}
		f.retired[name] = true
		views := inventory.Views([]hpcv1alpha1.VirtualNode{f.earlier[name]}, backends.Inventory{}, nil, capabilities(f.cluster, f.system.Backend))
		views[0].Problem = "the node is no longer part of BatchCluster " + f.cluster.Name + "; its pods are served to their end"
		f.views = append(f.views, views[0])
	}
}

// applyNodes hands node objects over when they changed.
func (f *front) applyNodes(queues map[string]inventory.Queue, cause error) {
	why := ""
	if cause != nil {
		why = cause.Error()
	}
	state := inventory.State{
		Cluster: f.cluster.Name, NodeIP: f.daemon.NodeIP, Port: f.port(), Version: f.daemon.Version,
		System: f.inventory.System + " " + f.inventory.Version, Reachable: f.reachable, Since: f.since, Why: why,
		Enter: capabilities(f.cluster, f.system.Backend).Enter,
	}
	if capabilities(f.cluster, f.system.Backend).StartEstimate {
		state.Waits = map[string]time.Duration{}
		for name, q := range queues {
			state.Waits[name] = q.Wait(time.Now())
		}
	}
	state.Arch = runtime.GOARCH // the runner was built with the daemon
	state.Served = map[string]string{}
	for _, v := range f.views {
		state.Served[v.VirtualNode.Name] = account.Served(f.cluster.Spec.Accounts, v.VirtualNode.Partition)
	}
	state.Uncertified, state.Unrenewed = f.certify()
	var desired []*corev1.Node
	changed := len(f.applied) != len(f.views)
	for _, view := range f.views {
		n := inventory.Node(view, state)
		if f.retired[n.Name] && state.Reachable {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: wellknown.TaintUnreachable, Value: f.cluster.Name, Effect: corev1.TaintEffectNoSchedule})
		}
		desired = append(desired, n)
		if !equality.Semantic.DeepEqual(f.applied[n.Name], n) {
			changed = true
		}
	}
	if !changed {
		return
	}
	clear(f.applied)
	for _, n := range desired {
		f.applied[n.Name] = n.DeepCopy()
	}
	if !f.nodes.Apply(f.run, desired) {
		clear(f.applied) // again with the next pass
	}
}

// certify sees to the serving certificates of the nodes, and says why some have
// none and why others get no new one.
func (f *front) certify() (missing, unrenewed map[string]string) {
	certs := f.daemon.Certificates
	if certs == nil {
		return nil, nil
	}
	names := make([]string, 0, len(f.views))
	for _, view := range f.views {
		names = append(names, view.VirtualNode.Name)
	}
	if err := certs.SetNodes(f.daemon.life, names); err != nil {
		f.daemon.Log.Info("could not ask for serving certificates", "error", err.Error())
	}
	missing, unrenewed = map[string]string{}, map[string]string{}
	for _, name := range names {
		switch state := certs.State(name); {
		case state.Until.IsZero():
			missing[name] = state.Why
		case state.Why != "":
			unrenewed[name] = fmt.Sprintf("it is valid until %s; %s", state.Until.UTC().Format(time.RFC3339), state.Why)
		}
	}
	return missing, unrenewed
}

func (f *front) port() int32 {
	if a, ok := f.daemon.Listener.Addr().(*net.TCPAddr); ok {
		return int32(a.Port) //nolint:gosec // a TCP port fits
	}
	return 0
}

// report writes the BatchCluster's status when it changed.
func (f *front) report(ctx context.Context, v View, queues map[string]inventory.Queue, cause error) error {
	status := hpcv1alpha1.BatchClusterStatus{
		ObservedGeneration: f.cluster.Generation,
		Version:            f.inventory.Version,
	}
	var problems []string
	for _, view := range f.views {
		name := view.VirtualNode.Name
		status.Nodes = append(status.Nodes, inventory.Status(view, queues[name]))
		if view.Problem != "" && !f.retired[name] && !f.readAt.IsZero() {
			problems = append(problems, name+": "+view.Problem)
		}
	}
	slices.SortFunc(status.Nodes, func(a, b hpcv1alpha1.VirtualNodeStatus) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	cond := func(kind string, ok bool, reason, message string) {
		c := metav1.Condition{
			Type: kind, Status: metav1.ConditionFalse, Reason: reason, Message: message,
			ObservedGeneration: f.cluster.Generation, LastTransitionTime: metav1.Now(),
		}
		if ok {
			c.Status = metav1.ConditionTrue
		}
		status.Conditions = append(status.Conditions, c)
	}
	if cause == nil {
		cond(hpcv1alpha1.ConditionReachable, true, "Answering", "the batch system answers")
	} else {
		cond(hpcv1alpha1.ConditionReachable, false, string(backends.KindOf(cause)), cause.Error())
	}
	switch {
	case cause == nil:
		cond(hpcv1alpha1.ConditionCredentialsValid, true, "Accepted", "our credentials are accepted")
	case errors.Is(cause, transport.ErrCredentialsExpired):
		cond(hpcv1alpha1.ConditionCredentialsValid, false, "Expired", cause.Error())
	case errors.Is(cause, transport.ErrDenied):
		cond(hpcv1alpha1.ConditionCredentialsValid, false, "Refused", cause.Error())
	default: // nothing was learned of them
		for _, c := range f.reported.Conditions {
			if c.Type == hpcv1alpha1.ConditionCredentialsValid {
				status.Conditions = append(status.Conditions, c)
			}
		}
	}
	for _, user := range slices.Sorted(maps.Keys(v.Problems)) {
		problems = append(problems, fmt.Sprintf("spec.accounts: user %s: %s", user, v.Problems[user]))
	}
	brake := f.bridge.Brake()
	switch {
	case f.daemon.invalidSpec() != "":
		cond(hpcv1alpha1.ConditionReady, false, "InvalidSpec", "the last good configuration is served; the newest is not valid: "+f.daemon.invalidSpec())
	case len(problems) > 0:
		cond(hpcv1alpha1.ConditionReady, false, "ConfigurationProblem", strings.Join(problems, "; "))
	case brake != "":
		cond(hpcv1alpha1.ConditionReady, false, "OwnerlessJobs", brake)
	case cause != nil:
		cond(hpcv1alpha1.ConditionReady, false, "BatchSystemUnreachable", "the batch system does not answer; running jobs are left alone")
	default:
		cond(hpcv1alpha1.ConditionReady, true, "Serving", fmt.Sprintf("%d virtual nodes are served", len(f.views)))
	}
	if equalStatus(f.reported, status) {
		return nil
	}
	if err := f.daemon.Source.Report(ctx, f.cluster, status); err != nil {
		return err
	}
	f.reported = status
	return nil
}

// equalStatus compares all but transition times.
func equalStatus(a, b hpcv1alpha1.BatchClusterStatus) bool {
	strip := func(s hpcv1alpha1.BatchClusterStatus) hpcv1alpha1.BatchClusterStatus {
		s = *s.DeepCopy()
		for i := range s.Conditions {
			s.Conditions[i].LastTransitionTime = metav1.Time{}
		}
		return s
	}
	return equality.Semantic.DeepEqual(strip(a), strip(b))
}
