package provider

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
)

// knownPods are those of one configuration; only the name is looked at.
type knownPods map[string]bool

func (k knownPods) Pods() []*corev1.Pod { return nil }

func (k knownPods) Pod(namespace, name string) (*corev1.Pod, bool) {
	if !k[name] {
		return nil, false
	}
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}, true
}

// A pod that was there before a BatchCluster changed, or before the daemon
// began, is not denied while the new configuration reads what there is.
func TestRequestsWaitForPods(t *testing.T) {
	for name, test := range map[string]struct {
		earlier bool          // another configuration was served before
		takes   time.Duration // until the new one knows its pods; 0 is never
		known   bool
		waits   time.Duration
	}{
		"the first":                        {takes: 3 * time.Second, known: true, waits: 3 * time.Second},
		"a change":                         {earlier: true, takes: 3 * time.Second, known: true, waits: 3 * time.Second},
		"a pod that is not there":          {earlier: true, takes: 3 * time.Second, waits: 3 * time.Second},
		"a batch system that is not there": {earlier: true, known: true, waits: settling},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				board := newSwitchboard()
				if test.earlier {
					board.connect(kubeletapi.Sources{Pods: knownPods{"p": true}})()
					<-time.After(time.Hour) // of the bubble's time
					if _, ok := board.Pod("ns", "p"); !ok {
						t.Fatal("not known before the change")
					}
				}
				began := time.Now()
				pods := knownPods{}
				settled := board.connect(kubeletapi.Sources{Pods: pods})
				if test.takes > 0 {
					time.AfterFunc(test.takes, func() {
						pods["p"] = test.known
						settled()
						settled() // each pass says so
					})
				} else {
					pods["p"] = test.known
				}
				if _, ok := board.Pod("ns", "p"); ok != test.known {
					t.Errorf("known: %v, want %v", ok, test.known)
				}
				if waited := time.Since(began); waited != test.waits {
					t.Errorf("waited %v, want %v", waited, test.waits)
				}
				if _, ok := board.Pod("ns", "p"); ok != test.known || time.Since(began) != test.waits {
					t.Errorf("the second request: known %v after %v", ok, time.Since(began))
				}
			})
		})
	}
}
