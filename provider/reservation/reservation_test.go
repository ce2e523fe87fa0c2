package reservation_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/reservation"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func cluster() reservation.Cluster {
	return reservation.Cluster{
		Name: "alps", Owner: "alps-1", Users: []string{"alice", "bob"},
		Nodes: []reservation.Node{
			{Name: "alps-gpu", Labels: map[string]string{"rack": "a"}, Hosts: []string{"g2", "g1"}},
			{Name: "alps-cpu", Labels: map[string]string{"rack": "a"}, Hosts: []string{"c1", "g1"}},
			{Name: "alps-lab", Hosts: []string{"l1"}, Reservation: "lab"},
			{Name: "alps-none"},
		},
		UserOf: func(ns string) (string, error) {
			if ns == "course" {
				return "alice", nil
			}
			return "", errors.New("no account")
		},
	}
}

func object(change func(*hpcv1alpha1.ReservationSpec)) hpcv1alpha1.Reservation {
	o := hpcv1alpha1.Reservation{
		ObjectMeta: metav1.ObjectMeta{Name: "r", UID: "uid", CreationTimestamp: metav1.Time{Time: begin}},
		Spec: hpcv1alpha1.ReservationSpec{
			Duration: &metav1.Duration{Duration: time.Hour}, Nodes: &hpcv1alpha1.ReservedNodes{Names: []string{"alps-gpu", "other"}},
			Owners: hpcv1alpha1.ReservationOwners{Namespaces: []string{"course"}},
		},
	}
	change(&o.Spec)
	return o
}

func TestWishes(t *testing.T) {
	type spec = hpcv1alpha1.ReservationSpec
	for name, tc := range map[string]struct {
		change               func(*spec)
		now                  time.Time
		hosts, users, reason string // reason is in the problem, or in what is short
		refused, none        bool
	}{
		"by name":              {change: func(*spec) {}, hosts: "g1 g2", users: "alice"},
		"by label":             {change: func(s *spec) { s.Nodes = &hpcv1alpha1.ReservedNodes{Selector: map[string]string{"rack": "a"}} }, hosts: "c1 g1 g2", users: "alice"},
		"for a queue":          {change: func(s *spec) { s.Owners = hpcv1alpha1.ReservationOwners{Queues: []string{"q"}} }, hosts: "g1 g2", users: "alice bob"},
		"for one without":      {change: func(s *spec) { s.Owners.Namespaces = []string{"course", "poor"} }, hosts: "g1 g2", users: "alice", reason: "without an account in BatchCluster alps: poor"},
		"for nobody":           {change: func(s *spec) { s.Owners.Namespaces = []string{"poor"} }, hosts: "g1 g2", reason: "spec.accounts", refused: true},
		"others' nodes":        {change: func(s *spec) { s.Nodes.Names = []string{"other"} }, none: true},
		"an amount":            {change: func(s *spec) { s.Nodes = nil }, none: true},
		"over":                 {change: func(*spec) {}, now: begin.Add(time.Hour), none: true},
		"reserved by the site": {change: func(s *spec) { s.Nodes.Names = []string{"alps-lab"} }, hosts: "l1", users: "alice", reason: "submits into reservation lab", refused: true},
		"hosts not known":      {change: func(s *spec) { s.Nodes.Names = []string{"alps-none"} }, users: "alice", reason: "not known"},
	} {
		t.Run(name, func(t *testing.T) {
			now := begin
			if !tc.now.IsZero() {
				now = tc.now
			}
			got := reservation.Wishes(cluster(), []hpcv1alpha1.Reservation{object(tc.change)}, now)
			if len(got) == 0 || tc.none {
				if len(got) > 0 || !tc.none {
					t.Fatalf("%d wishes: %+v", len(got), got)
				}
				return
			}
			w := got[0]
			r := w.Reservation
			if strings.Join(r.Hosts, " ") != tc.hosts || strings.Join(r.Users, " ") != tc.users || w.Refused != tc.refused || !strings.Contains(w.Problem+w.Short, tc.reason) || tc.reason == "" && w.Problem+w.Short != "" {
				t.Errorf("wish %+v", w)
			}
			if !r.Start.Equal(begin) || !r.End.Equal(begin.Add(time.Hour+reservation.Slack)) || !backends.OwnsReservation("alps-1", r.Name) {
				t.Errorf("reservation %+v", r)
			}
			if w.Problem == "" {
				if err := r.Validate("alps-1"); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

// One that begins when another is over is made beside it, and begins when the other ends.
func TestOneAfterTheOther(t *testing.T) {
	first, second := object(func(*hpcv1alpha1.ReservationSpec) {}), object(func(s *hpcv1alpha1.ReservationSpec) {
		s.Start = &metav1.Time{Time: begin.Add(time.Hour)}
	})
	second.Name, second.UID = "s", "other"
	all := []hpcv1alpha1.Reservation{second, first}
	got := reservation.Wishes(cluster(), all, begin)
	if r := got[1].Reservation; !got[0].Reservation.End.Equal(r.Start) || !r.Start.Equal(begin.Add(time.Hour+reservation.Slack)) || !r.End.Equal(begin.Add(2*time.Hour+reservation.Slack)) {
		t.Errorf("they are %+v", got)
	}
	now := begin.Add(time.Hour)
	after := reservation.Wishes(cluster(), all, now)
	if len(after) != 1 || !slices.Equal(after[0].Reservation.Unlike(got[1].Reservation, now), []string{"start"}) {
		t.Errorf("when the first is over there are %+v", after)
	}
}

// What was made first is asked for first, whatever its name: a batch system refuses the
// second where both want the same hosts.
func TestFirstMadeIsFirst(t *testing.T) {
	first, second := object(func(*hpcv1alpha1.ReservationSpec) {}), object(func(*hpcv1alpha1.ReservationSpec) {})
	first.Name, second.Name, second.UID = "z", "a", "other"
	first.CreationTimestamp, second.CreationTimestamp = metav1.NewTime(begin), metav1.NewTime(begin.Add(time.Second))
	all := []hpcv1alpha1.Reservation{second, first}
	if got := reservation.Wishes(cluster(), all, begin); len(got) != 2 || got[0].Object != "z" || all[0].Name != "a" {
		t.Errorf("wishes %+v of %s first", got, all[0].Name)
	}
}

func TestWhoIsAdmitted(t *testing.T) {
	byQueue := func(s *hpcv1alpha1.ReservationSpec) { s.Owners = hpcv1alpha1.ReservationOwners{Queues: []string{"q"}} }
	for _, tc := range []struct {
		change        func(*hpcv1alpha1.ReservationSpec)
		namespace, by string
		want          bool
	}{
		{func(*hpcv1alpha1.ReservationSpec) {}, "course", "", true},
		{func(*hpcv1alpha1.ReservationSpec) {}, "other", "", false},
		{func(*hpcv1alpha1.ReservationSpec) {}, "other", "r", false}, // it is for no queue
		{byQueue, "other", "r", true},
		{byQueue, "other", "another", false},
		{byQueue, "other", "", false},
	} {
		w := reservation.Wishes(cluster(), []hpcv1alpha1.Reservation{object(tc.change)}, begin)[0]
		if got := w.Admits(tc.namespace, tc.by); got != tc.want {
			t.Errorf("namespace %s, placed by %q: %v", tc.namespace, tc.by, got)
		}
		if !w.Covers("alps-gpu") || w.Covers("alps-cpu") {
			t.Errorf("it covers %v", w.Nodes)
		}
	}
}

func TestTold(t *testing.T) {
	w := reservation.Wishes(cluster(), []hpcv1alpha1.Reservation{object(func(*hpcv1alpha1.ReservationSpec) {})}, begin)[0]
	failed := func(kind backends.Kind) error {
		return &backends.Error{Op: "reserve", Kind: kind, Err: errors.New("it said so")}
	}
	there := w.Reservation
	begun := there
	begun.Active = true
	for name, tc := range map[string]struct {
		listed      *backends.Reservation
		err         error
		state, says string
	}{
		"made":           {&there, nil, "Made", ""},
		"in force":       {&begun, nil, "InForce", ""},
		"not changed":    {&begun, failed(backends.KindTransient), "InForce", "it said so"},
		"not there":      {nil, nil, "Waiting", "not there yet"},
		"nodes are busy": {nil, failed(backends.KindTransient), "Waiting", "it said so"},
		"unknown":        {nil, failed(backends.KindUnknownOutcome), "Waiting", "it said so"},
		"no right":       {nil, failed(backends.KindDenied), "Refused", "operator"},
		"wrong":          {nil, failed(backends.KindInvalid), "Refused", "it said so"},
	} {
		got := w.Told("alps", tc.listed, tc.err)
		if got.Cluster != "alps" || got.State != tc.state || !strings.Contains(got.Message, tc.says) || tc.says == "" && got.Message != "" {
			t.Errorf("%s: %+v", name, got)
		}
		if tc.listed != nil && (got.Name != there.Name || int(got.Hosts) != len(there.Hosts)) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	if !slices.IsSorted(w.Nodes) {
		t.Errorf("nodes %v", w.Nodes)
	}
}
