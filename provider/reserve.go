package provider

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/go-logr/logr"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/reservation"
)

const (
	// reservationsEvery is how often Reservations are listed. They are few, and of the
	// cluster's administrators.
	reservationsEvery = 5 * time.Second
	// reserveEvery is how often what the batch system has is compared with them, when
	// they have not changed.
	reserveEvery = 30 * time.Second
)

// The effects on reservations.
const (
	effectReserve   = "reserve"
	effectJoin      = "join"
	effectUnreserve = "unreserve"
)

// ReservationAPI is where Reservations come from.
type ReservationAPI interface {
	List(ctx context.Context) ([]hpcv1alpha1.Reservation, error)
	// Show writes the cluster's entry into the status; nil takes it out.
	Show(ctx context.Context, r *hpcv1alpha1.Reservation, entry *hpcv1alpha1.BatchReservation) error
}

// Reservations makes at the batch system what Reservations say of the virtual nodes of
// a bridge, and tells in them what became of it. Everything it knows is read again by
// the next process; nothing of it is needed for safety.
type Reservations struct {
	bridge  *Bridge
	backend backends.Reserver
	api     ReservationAPI
	log     logr.Logger

	objects  []hpcv1alpha1.Reservation
	listedAt time.Time
	syncedAt time.Time
	last     []reservation.Wish // that were compared last
	there    map[string]backends.Reservation
	failed   map[string]error
	unlisted error                // why it is not known what the batch system has
	nodes    map[string][]string  // virtual nodes of each reservation
	unjoined map[string]time.Time // when jobs could not be taken into each
	quiet    bool                 // the batch system has none of ours
	settled  bool                 // quiet, and no Reservation says otherwise
}

// NewReservations makes them for a bridge, and nil where its batch system makes none.
// Where spec.reservations does not want any, those that are there are ended.
func NewReservations(b *Bridge, api ReservationAPI) *Reservations {
	backend, ok := b.Backend.(backends.Reserver)
	if !ok || !b.Backend.Capabilities().Reserve {
		return nil
	}
	return &Reservations{
		bridge: b, backend: backend, api: api, log: b.Log.WithName("reservations"),
		there: map[string]backends.Reservation{}, failed: map[string]error{}, nodes: map[string][]string{}, unjoined: map[string]time.Time{},
	}
}

func (r *Reservations) wanted() bool {
	return r.bridge.Cluster.Spec.Reservations == hpcv1alpha1.ReservationsBatch
}

// Pass looks once and does what is due; blocks while the batch system is asked. changed
// says that the batch system's hosts are to be listed anew.
func (r *Reservations) Pass(ctx context.Context, nodes []reservation.Node) (changed bool) {
	if r == nil || !r.wanted() && r.settled {
		return false
	}
	now := r.bridge.Clock.Now()
	var wishes []reservation.Wish
	if r.wanted() {
		if now.Sub(r.listedAt) >= reservationsEvery {
			if err := r.list(ctx, now); err != nil && r.listedAt.IsZero() {
				return false // what is there would be taken for left over
			}
		}
		wishes = reservation.Wishes(r.cluster(nodes), r.objects, now)
	}
	for _, w := range wishes {
		r.nodes[w.Reservation.Name] = w.Nodes
	}
	same := slices.EqualFunc(wishes, r.last, reservation.Wish.Equal)
	if !same || r.syncedAt.IsZero() || now.Sub(r.syncedAt) >= reserveEvery && !(r.quiet && len(wishes) == 0) {
		changed = r.sync(ctx, wishes, now)
	}
	if !r.wanted() {
		r.settle(ctx, now)
		return changed
	}
	r.join(ctx, now)
	r.tell(ctx, wishes)
	return changed
}

// settle takes our words back once the batch system has none of ours. There may be
// words where there never was a reservation: that it was refused.
func (r *Reservations) settle(ctx context.Context, now time.Time) {
	if !r.quiet || !r.listedAt.IsZero() && now.Sub(r.listedAt) < reserveEvery {
		return
	}
	switch err := r.list(ctx, now); {
	case err == nil:
		r.settled = r.tell(ctx, nil)
	case apierrors.IsForbidden(err): // who may not read them never wrote into one
		r.settled = true
	}
	r.listedAt = now // whatever came of it
}

func (r *Reservations) list(ctx context.Context, now time.Time) error {
	objects, err := r.api.List(ctx)
	if err != nil {
		r.log.Info("could not list Reservations", "error", err.Error())
		return err
	}
	r.objects, r.listedAt = objects, now
	return nil
}

func (r *Reservations) cluster(nodes []reservation.Node) reservation.Cluster {
	c := reservation.Cluster{Name: r.bridge.Cluster.Name, Owner: r.bridge.Owner, Nodes: nodes, UserOf: r.bridge.userOfNamespace}
	for _, a := range r.bridge.Cluster.Spec.Accounts {
		if !slices.Contains(c.Users, a.User) {
			c.Users = append(c.Users, a.User)
		}
	}
	return c
}

// sync makes the batch system have what is wished for. What cannot be done now is tried
// again with the next one: all that it does is safe to repeat.
func (r *Reservations) sync(ctx context.Context, wishes []reservation.Wish, now time.Time) (changed bool) {
	ctx, cancel := context.WithTimeout(ctx, 2*readDeadline)
	defer cancel()
	have, err := r.backend.Reservations(ctx, r.bridge.Owner)
	if r.unlisted = err; err != nil {
		r.log.Info("could not list the batch system's reservations", "error", err.Error())
		return false
	}
	wished := map[string]*reservation.Wish{}
	for i := range wishes {
		wished[wishes[i].Reservation.Name] = &wishes[i]
	}
	// Nothing more is submitted into what ends now.
	r.know(wishes, have)
	r.failed = map[string]error{}
	do := func(effect, name string, fn func(context.Context) error) {
		changed = true
		if err := r.bridge.Gate.Do(ctx, effect, fn); err != nil {
			r.failed[name] = err
			r.log.Info("reservation", "effect", effect, "name", name, "error", err.Error())
			return
		}
		r.log.Info("reservation", "effect", effect, "name", name)
	}
	for _, h := range have {
		if wished[h.Name] == nil {
			do(effectUnreserve, h.Name, func(ctx context.Context) error { return r.backend.Unreserve(ctx, r.bridge.Owner, h.Name) })
		}
	}
	for _, w := range wishes {
		at := slices.IndexFunc(have, func(h backends.Reservation) bool { return h.Name == w.Reservation.Name })
		if w.Problem == "" && (at < 0 || len(w.Reservation.Unlike(have[at], now)) > 0) {
			do(effectReserve, w.Reservation.Name, func(ctx context.Context) error { return r.backend.Reserve(ctx, r.bridge.Owner, w.Reservation) })
		}
	}
	if changed {
		if have, err = r.backend.Reservations(ctx, r.bridge.Owner); err != nil {
			return true
		}
		r.know(wishes, have)
	}
	r.quiet = len(have) == 0
	r.last, r.syncedAt = wishes, now
	return changed
}

// know takes in what the batch system has.
func (r *Reservations) know(wishes []reservation.Wish, have []backends.Reservation) {
	r.there = map[string]backends.Reservation{}
	for _, h := range have {
		r.there[h.Name] = h
	}
	var there []reservation.Wish
	for _, w := range wishes {
		if _, ok := r.there[w.Reservation.Name]; ok && w.Problem == "" {
			there = append(there, w)
		}
	}
	r.bridge.SetReservations(there)
}

// join takes jobs that were submitted before their reservation was there into it. Where
// it fails some of them may be in it; all are tried again, which changes nothing for those.
func (r *Reservations) join(ctx context.Context, now time.Time) {
	maps.DeleteFunc(r.unjoined, func(_ string, at time.Time) bool { return now.Sub(at) >= reserveEvery })
	for _, w := range r.last {
		name := w.Reservation.Name
		_, there := r.there[name]
		if _, failed := r.unjoined[name]; !there || failed {
			continue
		}
		jobs := r.bridge.outside(name)
		if len(jobs) == 0 {
			continue
		}
		err := r.bridge.Gate.Do(ctx, effectJoin, func(ctx context.Context) error {
			ctx, cancel := context.WithTimeout(ctx, readDeadline)
			defer cancel()
			return r.backend.Join(ctx, r.bridge.Owner, name, jobs)
		})
		if err != nil {
			r.log.Info("could not take waiting jobs into a reservation", "name", name, "jobs", len(jobs), "error", err.Error())
			r.unjoined[name] = now
			continue
		}
		r.bridge.nowWithin(name, jobs...)
	}
}

// tell brings the entries of our cluster up to date, and reports whether all are.
func (r *Reservations) tell(ctx context.Context, wishes []reservation.Wish) (done bool) {
	done = true
	cluster := r.bridge.Cluster.Name
	for i := range r.objects {
		o := &r.objects[i]
		var want *hpcv1alpha1.BatchReservation
		if at := slices.IndexFunc(wishes, func(w reservation.Wish) bool { return w.UID == string(o.UID) }); at >= 0 {
			name := wishes[at].Reservation.Name
			var listed *backends.Reservation
			if h, ok := r.there[name]; ok {
				listed = &h
			}
			err := r.failed[name]
			if err == nil {
				err = r.unlisted
			}
			entry := wishes[at].Told(cluster, listed, err)
			want = &entry
		}
		var shown *hpcv1alpha1.BatchReservation
		if at := slices.IndexFunc(o.Status.Batch, func(e hpcv1alpha1.BatchReservation) bool { return e.Cluster == cluster }); at >= 0 {
			shown = &o.Status.Batch[at]
		}
		if shown != nil && r.syncedAt.IsZero() {
			continue // the daemon before knew more
		}
		if want == nil && shown == nil || want != nil && shown != nil && *want == *shown {
			continue
		}
		switch err := r.api.Show(ctx, o, want); {
		case err == nil:
			o.Status.Batch = slices.DeleteFunc(o.Status.Batch, func(e hpcv1alpha1.BatchReservation) bool { return e.Cluster == cluster })
			if want != nil {
				o.Status.Batch = append(o.Status.Batch, *want)
			}
		case apierrors.IsNotFound(err): // with its Reservation
		case apierrors.IsConflict(err): // with the next list
			done = false
		default:
			done = false
			r.log.Info("could not write the status of a Reservation", "reservation", o.Name, "error", err.Error())
		}
	}
	return done
}

// Keeps lists, by virtual node, the hosts that reservations keep for it, as the batch
// system's inventory has it.
func (r *Reservations) Keeps(inv backends.Inventory) map[string]map[string]bool {
	if r == nil {
		return nil
	}
	out := map[string]map[string]bool{}
	for name, nodes := range r.nodes {
		hosts, ok := inv.Reservations[name]
		if _, there := r.there[name]; !ok && !there && !slices.ContainsFunc(r.last, func(w reservation.Wish) bool { return w.Reservation.Name == name }) {
			delete(r.nodes, name)
		}
		for _, n := range nodes {
			for _, h := range hosts {
				if out[n] == nil {
					out[n] = map[string]bool{}
				}
				out[n][h] = true
			}
		}
	}
	return out
}

// userOfNamespace is the user that pods of a namespace run as.
func (b *Bridge) userOfNamespace(namespace string) (string, error) {
	acct, err := b.accountIn(namespace)
	return acct.User, err
}

// kubeReservations is ReservationAPI on a real API server.
type kubeReservations struct {
	client kubernetes.Interface
	// manager is whose the entries are; another of the cluster's daemons is the same.
	manager string
}

const reservationsPath = "/apis/hpc.isthmus.sh/v1alpha1"

// List reads all Reservations; none where there is no such kind.
func (k kubeReservations) List(ctx context.Context) ([]hpcv1alpha1.Reservation, error) {
	result := k.client.CoreV1().RESTClient().Get().AbsPath(reservationsPath).Resource("reservations").SetHeader("Accept", "application/json").Do(ctx)
	if err := result.Error(); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, err
	}
	raw, err := result.Raw()
	if err != nil {
		return nil, err
	}
	var list hpcv1alpha1.ReservationList
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("read the list of Reservations: %w", err)
	}
	return list.Items, nil
}

// Show applies the entry with a field manager of the cluster's own: the entries of
// others, and what the scheduler writes, are theirs. It is for the object as it was
// read, since an apply looks at no UID.
func (k kubeReservations) Show(ctx context.Context, r *hpcv1alpha1.Reservation, entry *hpcv1alpha1.BatchReservation) error {
	status := map[string]any{}
	if entry != nil {
		status["batch"] = []hpcv1alpha1.BatchReservation{*entry}
	}
	body, err := json.Marshal(map[string]any{
		"apiVersion": hpcv1alpha1.GroupVersion.String(), "kind": "Reservation",
		"metadata": map[string]any{"name": r.Name, "resourceVersion": r.ResourceVersion}, "status": status,
	})
	if err != nil {
		return fmt.Errorf("encode status: %w", err)
	}
	return k.client.CoreV1().RESTClient().Patch(types.ApplyYAMLPatchType).AbsPath(reservationsPath).Resource("reservations").
		Name(r.Name).SubResource("status").Param("fieldManager", k.manager).Param("force", "true").
		SetHeader("Accept", "application/json").Body(body).Do(ctx).Error()
}
