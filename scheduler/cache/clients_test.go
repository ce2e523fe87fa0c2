package cache

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
)

// TestWatchesAreNotCompressed: no watch asks for compression, which an API server would
// do anew for each event, and pods come in protobuf.
func TestWatchesAreNotCompressed(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]http.Header{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.URL.Path] = r.Header
	}))
	defer server.Close()
	client, volcano, anything, err := Clients(&rest.Config{Host: server.URL, TLSClientConfig: rest.TLSClientConfig{Insecure: true}})
	if err != nil {
		t.Fatal(err)
	}
	if w, err := client.CoreV1().Pods("").Watch(t.Context(), metav1.ListOptions{}); err == nil {
		w.Stop()
	}
	if w, err := volcano.SchedulingV1beta1().PodGroups("").Watch(t.Context(), metav1.ListOptions{}); err == nil {
		w.Stop()
	}
	if w, err := anything.Resource(schema.GroupVersionResource{Group: "hpc.isthmus.sh", Version: "v1alpha1", Resource: "reservations"}).Watch(t.Context(), metav1.ListOptions{}); err == nil {
		w.Stop()
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 3 {
		t.Fatalf("asked for %v", asked)
	}
	for path, header := range asked {
		if e := header.Get("Accept-Encoding"); e != "" {
			t.Errorf("%s is asked for in encoding %q", path, e)
		}
	}
	if accept := asked["/api/v1/pods"].Get("Accept"); !strings.HasPrefix(accept, "application/vnd.kubernetes.protobuf") {
		t.Errorf("pods are asked for as %q", accept)
	}
}
