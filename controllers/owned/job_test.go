package owned_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	"github.com/isthmus-hpc/isthmus/controllers/owned"
)

// refusing is an API server that refuses all, with a text.
type refusing struct {
	client.Client
	text string
}

func (r refusing) Create(context.Context, client.Object, ...client.CreateOption) error {
	return errors.New(r.text)
}

// A policy's long reason is told as far as the API server takes it: 1,024 bytes.
func TestLongRefusal(t *testing.T) {
	recorder := events.NewFakeRecorder(1)
	job := &batch.Job{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("j", 253)}}
	if err := owned.CreateJob(t.Context(), refusing{text: "no: " + strings.Repeat("é", 2500)}, recorder, "f", &batch.Job{}, job); err == nil {
		t.Error("no error")
	}
	if text := strings.TrimPrefix(<-recorder.Events, "Warning FailedCreate "); len(text) > 1024 || !strings.Contains(text, "no: éé") {
		t.Errorf("%d bytes: %s", len(text), text)
	}
}
