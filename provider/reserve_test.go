package provider_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/fake"
	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/providertest"
	"github.com/isthmus-hpc/isthmus/provider/reservation"
)

// bookings is a ReservationAPI in memory.
type bookings struct {
	objects []hpcv1alpha1.Reservation
	lists   int
	shows   int
	fails   bool
}

func (b *bookings) List(context.Context) ([]hpcv1alpha1.Reservation, error) {
	b.lists++
	if b.fails {
		return nil, errors.New("the API server is away")
	}
	var out []hpcv1alpha1.Reservation
	for i := range b.objects {
		out = append(out, *b.objects[i].DeepCopy())
	}
	return out, nil
}

func (b *bookings) Show(_ context.Context, r *hpcv1alpha1.Reservation, entry *hpcv1alpha1.BatchReservation) error {
	b.shows++
	for i := range b.objects {
		if b.objects[i].UID == r.UID {
			b.objects[i].Status.Batch = nil
			if entry != nil {
				b.objects[i].Status.Batch = []hpcv1alpha1.BatchReservation{*entry}
			}
		}
	}
	return nil
}

func (b *bookings) entry() hpcv1alpha1.BatchReservation {
	if len(b.objects) == 0 || len(b.objects[0].Status.Batch) == 0 {
		return hpcv1alpha1.BatchReservation{}
	}
	return b.objects[0].Status.Batch[0]
}

// reserved is a world of one host of two processors with a daemon that makes reservations.
type reserved struct {
	*world
	bookings *bookings
	made     *provider.Reservations
	of       *provider.Bridge // that made is of
}

func newReserved(t *testing.T, gate *providertest.Gate, change func(*fake.Config)) *reserved {
	cfg := fake.Uniform(1, 2, 64<<10, "", 0)
	cfg.Backfill = true // whoever may come in does, whoever waits before
	cfg.Program = func(backends.JobSpec) fake.Behaviour { return fake.Behaviour{Forever: true} }
	if change != nil {
		change(&cfg)
	}
	w := &reserved{world: newWorldIn(t, gate, cfg), bookings: &bookings{}}
	w.change = func(c *hpcv1alpha1.BatchCluster) { c.Spec.Reservations = hpcv1alpha1.ReservationsBatch }
	w.boot()
	return w
}

func (w *reserved) reserve(name string, lasts time.Duration, owners hpcv1alpha1.ReservationOwners) {
	w.bookings.objects = append(w.bookings.objects, hpcv1alpha1.Reservation{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.Time{Time: w.system.Now()}},
		Spec: hpcv1alpha1.ReservationSpec{
			Duration: &metav1.Duration{Duration: lasts}, Nodes: &hpcv1alpha1.ReservedNodes{Names: []string{"node-main"}}, Owners: owners,
		},
	})
}

// ticks lets n intervals pass, the first of them with what is due for reservations.
func (w *reserved) ticks(n int) {
	w.t.Helper()
	for range n {
		if w.of != w.bridge { // a daemon that remembers nothing
			w.of, w.made = w.bridge, provider.NewReservations(w.bridge, w.bookings)
		}
		w.made.Pass(w.t.Context(), []reservation.Node{{Name: "node-main", Hosts: []string{"h001"}}})
		w.tick()
	}
}

// bind makes a gang of one pod in a namespace.
func (w *reserved) bind(namespace, name, cpus, by string) types.UID {
	w.namespace = namespace
	uid := w.gang(name, 1)[0]
	p := w.api.Get(uid).DeepCopy()
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpus)}
	if by != "" {
		p.Annotations[wellknown.ReservedBy] = by
	}
	w.api.Create(p)
	return uid
}

// states of the jobs of pods, with the reservation that each is in.
func (w *reserved) states(uids ...types.UID) string {
	var out []string
	for _, uid := range uids {
		id := backends.JobID(w.api.Get(uid).Annotations[wellknown.BatchJobID])
		j, ok := w.system.Job(id)
		if !ok {
			out = append(out, "none")
			continue
		}
		out = append(out, string(j.State))
	}
	return strings.Join(out, " ")
}

func (w *reserved) listed() []backends.Reservation {
	w.t.Helper()
	got, err := w.system.Reservations(w.t.Context(), owner)
	if err != nil {
		w.t.Fatal(err)
	}
	return got
}

// A gang that waits at the batch system before its reservation is there comes in when
// the one before it ends; others do when it is over, and their jobs were never held.
// That is so whatever goes wrong at whichever effect.
func TestReservationLife(t *testing.T) {
	type fault struct {
		effect string
		what   providertest.Fault
	}
	faults := []fault{{"", providertest.NoFault}}
	for _, effect := range []string{"reserve", "join", "unreserve"} {
		for _, m := range providertest.Faults() {
			faults = append(faults, fault{effect, m})
		}
	}
	for _, f := range faults {
		t.Run(fmt.Sprintf("%s %s", f.effect, f.what), func(t *testing.T) {
			gate := providertest.Faulty(f.what, f.effect, 1)
			w := newReserved(t, gate, nil)
			hog := w.bind("ns-others", "hog", "2", "")
			w.ticks(2)
			theirs, mine := w.bind("ns-others", "theirs", "1", ""), w.bind("ns-ours", "mine", "1", "")
			w.ticks(2)
			if got := w.states(hog, theirs, mine); got != "Running Pending Pending" {
				t.Fatalf("before: %s", got)
			}
			w.reserve("r", 10*time.Minute, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns-ours"}})
			w.ticks(16) // twice the time between two comparisons
			if e := w.bookings.entry(); e.State != hpcv1alpha1.BatchReservationInForce || e.Hosts != 1 || len(w.listed()) != 1 || e.Name != w.listed()[0].Name {
				t.Fatalf("told is %+v, listed are %+v", e, w.listed())
			}
			w.system.Finish(backends.JobID(w.api.Get(hog).Annotations[wellknown.BatchJobID]), 0, 0)
			late := w.bind("ns-ours", "late", "1", "")
			w.ticks(8)
			if got := w.states(theirs, mine, late); got != "Pending Running Running" {
				t.Fatalf("while it is in force: %s", got)
			}
			more := w.bind("ns-ours", "more", "1", "")
			for w.bookings.entry().State != "" {
				w.ticks(1)
			}
			w.ticks(8)
			if got := w.listed(); len(got) > 0 {
				t.Errorf("over, and there are %+v", got)
			}
			w.system.Finish(backends.JobID(w.api.Get(mine).Annotations[wellknown.BatchJobID]), 0, 0)
			w.system.Finish(backends.JobID(w.api.Get(late).Annotations[wellknown.BatchJobID]), 0, 0)
			w.ticks(4)
			if got := w.states(theirs, more); got != "Running Running" {
				t.Errorf("when it is over: %s", got)
			}
			if f.effect != "" && !gate.Met() {
				t.Error("nothing went wrong: the test shows nothing")
			}
		})
	}
}

// Pods of a queue that reserved come in by what their scheduler wrote on them.
func TestReservationOfQueue(t *testing.T) {
	w := newReserved(t, providertest.Sound(), nil)
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Queues: []string{"q"}})
	w.ticks(2)
	mine, forged, theirs := w.bind("ns", "mine", "1", "r"), w.bind("ns", "forged", "1", "another"), w.bind("ns", "theirs", "1", "")
	w.ticks(4)
	if got := w.states(mine, forged, theirs); got != "Running Pending Pending" {
		t.Errorf("jobs are %s", got)
	}
}

// Without the right the Reservation says who has to do what, and pods run as without it;
// with it they are in as soon as it is there.
func TestReservationDenied(t *testing.T) {
	w := newReserved(t, providertest.Sound(), func(c *fake.Config) { c.NoReservations = true })
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns"}})
	mine := w.bind("ns", "mine", "1", "")
	w.ticks(10)
	e := w.bookings.entry()
	if e.State != hpcv1alpha1.BatchReservationRefused || !strings.Contains(e.Message, "operator") || !strings.Contains(e.Message, "Access/permission denied") {
		t.Errorf("told is %+v", e)
	}
	if got := w.states(mine); got != "Running" {
		t.Errorf("the job is %s", got)
	}
	if shows := w.bookings.shows; shows > 2 {
		t.Errorf("%d status writes for one state", shows)
	}
}

// A job that names a reservation which ended meanwhile, or does not take its user, is
// submitted without it the next time.
func TestReservationGoneBeforeSubmit(t *testing.T) {
	for name, kind := range map[string]backends.Kind{"gone": backends.KindInvalid, "not for the user": backends.KindDenied} {
		t.Run(name, func(t *testing.T) {
			w := newReserved(t, providertest.Sound(), nil)
			w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns"}})
			w.ticks(2)
			r := w.listed()[0]
			switch kind {
			case backends.KindInvalid:
				if err := w.system.Unreserve(t.Context(), owner, r.Name); err != nil {
					t.Fatal(err)
				}
			default:
				r.Users = []string{"bob"}
				if err := w.system.Reserve(t.Context(), owner, r); err != nil {
					t.Fatal(err)
				}
			}
			mine := w.bind("ns", "mine", "1", "")
			for range 12 { // without a look at reservations between
				w.tick()
			}
			want := map[backends.Kind]string{backends.KindInvalid: "Running", backends.KindDenied: "Pending"}[kind]
			if got := w.states(mine); got != want {
				t.Errorf("the job is %s, want %s", got, want)
			}
		})
	}
}

// Whoever does as a refusal says and wants none any more hears no more of it, also where
// the first try to take it back fails.
func TestReservationsOffAfterRefusal(t *testing.T) {
	w := newReserved(t, providertest.Sound(), func(c *fake.Config) { c.NoReservations = true })
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns"}})
	w.ticks(2)
	if e := w.bookings.entry(); e.State != hpcv1alpha1.BatchReservationRefused {
		t.Fatalf("told is %+v", e)
	}
	w.change = nil
	w.bookings.fails = true
	w.boot()
	w.ticks(2)
	w.bookings.fails = false
	w.ticks(16)
	if e := w.bookings.entry(); e.State != "" {
		t.Errorf("told is still %+v", e)
	}
	lists, shows := w.bookings.lists, w.bookings.shows
	w.ticks(16)
	if w.bookings.lists != lists || w.bookings.shows != shows {
		t.Errorf("%d lists and %d writes more of what nobody wants", w.bookings.lists-lists, w.bookings.shows-shows)
	}
}

// While a reservation could not be ended, what is told of it stands.
func TestReservationsOffNotEnded(t *testing.T) {
	gate := providertest.Sound()
	w := newReserved(t, gate, nil)
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns"}})
	w.ticks(2)
	gate.Next(providertest.FailBefore, "unreserve")
	w.change = nil
	w.boot()
	w.ticks(2)
	if e := w.bookings.entry(); !gate.Met() || len(w.listed()) != 1 || e.State != hpcv1alpha1.BatchReservationInForce {
		t.Errorf("told is %+v of %+v", e, w.listed())
	}
	w.ticks(16)
	if e := w.bookings.entry(); len(w.listed()) != 0 || e.State != "" {
		t.Errorf("told is %+v of %+v", e, w.listed())
	}
}

// A reservation that somebody deletes at the batch system, with its jobs taken out
// before, is made anew, and they come in again.
func TestReservationMadeAnew(t *testing.T) {
	w := newReserved(t, providertest.Sound(), nil)
	hog := w.bind("ns-others", "hog", "2", "")
	w.ticks(2)
	mine := w.bind("ns-ours", "mine", "1", "")
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns-ours"}})
	w.ticks(16)
	if err := w.system.Unreserve(t.Context(), owner, w.listed()[0].Name); err != nil {
		t.Fatal(err)
	}
	w.ticks(16)
	if got := w.states(hog, mine); got != "Running Pending" || len(w.listed()) != 1 {
		t.Fatalf("before: %s, %+v", got, w.listed())
	}
	w.system.Finish(backends.JobID(w.api.Get(hog).Annotations[wellknown.BatchJobID]), 0, 0)
	w.ticks(4)
	if got := w.states(mine); got != "Running" {
		t.Errorf("made anew, and the job is %s", got)
	}
}

// Jobs that could not be taken in are tried again with the next comparison, not with
// each look.
func TestReservationJoinFails(t *testing.T) {
	gate := providertest.Sound()
	w := newReserved(t, gate, nil)
	gate.Meanwhile = func(effect string) {
		if effect == "join" {
			w.system.Inject(fake.Fault{Op: fake.OpReserve, Kind: backends.KindDenied, Err: errors.New("Access/permission denied")})
		}
	}
	w.bind("ns-others", "hog", "2", "")
	w.ticks(2)
	w.bind("ns-ours", "mine", "1", "")
	w.ticks(2)
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns-ours"}})
	w.ticks(24) // two minutes
	if n := gate.Count("join"); n < 2 || n > 4 {
		t.Errorf("%d tries in two minutes", n)
	}
}

// Jobs of a user whom a reservation is not for are none to take into it: those of a
// namespace that had another user when they were submitted.
func TestReservationOfAnotherUser(t *testing.T) {
	gate := providertest.Sound()
	w := newReserved(t, gate, nil)
	w.bind("ns-others", "hog", "2", "")
	w.ticks(2)
	mine := w.bind("ns-ours", "mine", "1", "")
	w.ticks(2)
	w.change = func(c *hpcv1alpha1.BatchCluster) {
		c.Spec.Reservations = hpcv1alpha1.ReservationsBatch
		c.Spec.Accounts = []hpcv1alpha1.Account{{User: "bob"}}
	}
	w.boot()
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns-ours"}})
	w.ticks(16)
	if got := w.listed(); len(got) != 1 || strings.Join(got[0].Users, " ") != "bob" {
		t.Fatalf("listed are %+v", got)
	}
	if got := w.states(mine); got != "Pending" || gate.Count("join") > 0 {
		t.Errorf("the job is %s after %d tries to take it in", got, gate.Count("join"))
	}
}

// Reservations that are not wanted any more are ended once, and others' never.
func TestReservationsOff(t *testing.T) {
	w := newReserved(t, providertest.Sound(), nil)
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns"}})
	w.ticks(2)
	others := backends.Reservation{Name: backends.ReservationName("other-cluster", "x"), Hosts: []string{"h001"}, Users: []string{"alice"},
		Start: w.system.Now().Add(48 * time.Hour), End: w.system.Now().Add(49 * time.Hour)}
	if err := w.system.Reserve(t.Context(), "other-cluster", others); err != nil {
		t.Fatal(err)
	}
	w.change = nil
	w.boot()
	w.ticks(2)
	if got := w.listed(); len(got) > 0 || w.bookings.entry().State != "" {
		t.Errorf("listed are %+v, told is %+v", got, w.bookings.entry())
	}
	got, err := w.system.Reservations(t.Context(), "other-cluster")
	if err != nil || len(got) != 1 {
		t.Errorf("those of another owner are %+v, %v", got, err)
	}
	asked := w.system.Calls()[fake.OpReserve]
	w.ticks(20)
	if n := w.system.Calls()[fake.OpReserve] - asked; n > 0 {
		t.Errorf("it is asked %d times more for reservations that nobody wants", n)
	}
}

// A daemon that cannot yet ask the batch system lets stand what is told, and tells why of
// what is not.
func TestReservationsNotKnown(t *testing.T) {
	w := newReserved(t, providertest.Sound(), nil)
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns"}})
	w.ticks(2)
	if e := w.bookings.entry(); e.State != hpcv1alpha1.BatchReservationInForce {
		t.Fatalf("told is %+v", e)
	}
	w.boot()
	w.system.Inject(fake.Fault{Op: fake.OpReserve, Kind: backends.KindTransient, Times: -1, Err: errors.New("no answer")})
	w.ticks(3)
	if e := w.bookings.entry(); e.State != hpcv1alpha1.BatchReservationInForce {
		t.Errorf("told is %+v", e)
	}
	w.bookings.objects[0].Status.Batch = nil
	w.ticks(3)
	if e := w.bookings.entry(); e.State != hpcv1alpha1.BatchReservationWaiting || !strings.Contains(e.Message, "no answer") {
		t.Errorf("told is %+v", e)
	}
}

// While the API server does not tell which Reservations there are, none is ended.
func TestReservationsNotListed(t *testing.T) {
	w := newReserved(t, providertest.Sound(), nil)
	w.reserve("r", time.Hour, hpcv1alpha1.ReservationOwners{Namespaces: []string{"ns"}})
	w.ticks(2)
	w.bookings.fails = true
	w.boot()
	w.ticks(10)
	if got := w.listed(); len(got) != 1 {
		t.Errorf("listed are %+v", got)
	}
	if keeps := w.made.Keeps(backends.Inventory{Reservations: map[string][]string{"others": {"h001"}}}); len(keeps) > 0 {
		t.Errorf("hosts of others are kept for %v", keeps)
	}
	w.bookings.fails = false
	w.ticks(2)
	inv, err := w.system.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	keeps := w.made.Keeps(inv)
	if !keeps["node-main"]["h001"] || len(keeps) != 1 {
		t.Errorf("kept are %v of %v", keeps, inv.Reservations)
	}
}
