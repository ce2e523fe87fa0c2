package queuetree

import (
	"slices"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
)

func queue(name, parent string, state scheduling.QueueState) scheduling.Queue {
	return scheduling.Queue{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: scheduling.QueueSpec{Parent: parent}, Status: scheduling.QueueStatus{State: state}}
}

func TestJudge(t *testing.T) {
	queues := []scheduling.Queue{
		queue("root", "", scheduling.QueueStateOpen), queue("new", "", ""), queue("open", "root", scheduling.QueueStateOpen),
		queue("shut", "", scheduling.QueueStateClosed), queue("shutting", "", scheduling.QueueStateClosing), queue("odd", "", scheduling.QueueStateUnknown),
		queue("family", "", scheduling.QueueStateClosed), queue("z", "family", ""), queue("a", "family", ""), queue("own", "own", ""),
	}
	for name, want := range map[string]struct {
		verdict Verdict
		found   bool
		beneath []string
	}{
		"root":     {NotLeaf, true, []string{"family", "new", "odd", "open", "shut", "shutting"}},
		"default":  {Takes, false, nil},
		"nowhere":  {NotFound, false, nil},
		"new":      {Takes, true, nil},
		"open":     {Takes, true, nil},
		"shut":     {NotOpen, true, nil},
		"shutting": {NotOpen, true, nil},
		"odd":      {NotOpen, true, nil},
		"family":   {NotLeaf, true, []string{"a", "z"}},
		"own":      {Takes, true, nil},
	} {
		verdict, found, beneath := Judge(name, queues)
		if verdict != want.verdict || (found != nil) != want.found || !slices.Equal(beneath, want.beneath) {
			t.Errorf("%s: %q %v %v, want %+v", name, verdict, found != nil, beneath, want)
		}
	}
	if v, _, _ := Judge(Root, nil); v != NotLeaf {
		t.Errorf("root of an empty cluster: %q", v)
	}
}

func TestParent(t *testing.T) {
	for _, test := range []struct {
		queue scheduling.Queue
		want  string
	}{{queue("root", "", ""), ""}, {queue("root", "x", ""), ""}, {queue("a", "", ""), "root"}, {queue("a", "b", ""), "b"}} {
		if got := Parent(&test.queue); got != test.want {
			t.Errorf("%s beneath %q: %q, want %q", test.queue.Name, test.queue.Spec.Parent, got, test.want)
		}
	}
}
