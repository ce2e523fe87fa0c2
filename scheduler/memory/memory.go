// Package memory keeps what the scheduler has learnt in a ConfigMap, so that it
// outlives the program. One scheduler writes it, the one that schedules; should two
// do so for a moment, what both know is put together.
package memory

import (
	"context"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/isthmus-hpc/isthmus/scheduler/estimate"
)

// Name is the name of the ConfigMap, and key the part of it with the runs.
const (
	Name = "isthmus-scheduler-memory"
	key  = "runs.json"
)

// Learner is what learns.
type Learner interface {
	Remember(*estimate.Book)
	Runs(version int64) (text []byte, now int64, err error)
}

// Keeper reads and writes the ConfigMap.
type Keeper struct {
	Client    kubernetes.Interface
	Namespace string
	Learner   Learner
	// Every is how often what is new is written.
	Every time.Duration

	version int64
}

const callTimeout = 15 * time.Second

// Load tells the learner what is known from before. What cannot be read is said in
// the log and learnt anew: it is no reason not to schedule.
func (k *Keeper) Load(ctx context.Context) {
	log := logr.FromContextOrDiscard(ctx)
	_, book, err := k.read(ctx)
	if err != nil {
		log.Error(err, "what was learnt before is not known")
		return
	}
	k.Learner.Remember(book)
	log.V(1).Info("run times of before are known", "keys", book.Keys())
}

// read returns the ConfigMap, nil when there is none, and the book in it.
func (k *Keeper) read(ctx context.Context) (*corev1.ConfigMap, *estimate.Book, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m, err := k.Client.CoreV1().ConfigMaps(k.Namespace).Get(call, Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, estimate.New(), nil
	case err != nil:
		return nil, nil, fmt.Errorf("get ConfigMap %s/%s: %w", k.Namespace, Name, err)
	case m.Data[key] == "":
		return m, estimate.New(), nil
	}
	book, err := estimate.Decode([]byte(m.Data[key]))
	if err != nil {
		return m, nil, fmt.Errorf("ConfigMap %s/%s, %s: %w", k.Namespace, Name, key, err)
	}
	return m, book, nil
}

// Run writes what is new now and then until ctx ends.
func (k *Keeper) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(k.Every):
		}
		if err := k.Save(ctx); err != nil && ctx.Err() == nil {
			logr.FromContextOrDiscard(ctx).Error(err, "what was learnt is not written; it is tried again")
		}
	}
}

// Save writes what is new since it was last written. It is idempotent.
func (k *Keeper) Save(ctx context.Context) error {
	text, version, err := k.Learner.Runs(k.version)
	if err != nil || text == nil {
		return err //nolint:wrapcheck // the learner has said what it did
	}
	m, others, err := k.read(ctx)
	if m == nil && err != nil {
		return err
	}
	if others != nil { // else it is not to be read, and is written anew
		k.Learner.Remember(others)
		if text, version, err = k.Learner.Runs(k.version); err != nil {
			return err //nolint:wrapcheck // the learner has said what it did
		}
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	maps := k.Client.CoreV1().ConfigMaps(k.Namespace)
	if m == nil {
		m = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: k.Namespace}, Data: map[string]string{key: string(text)}}
		_, err = maps.Create(call, m, metav1.CreateOptions{})
	} else {
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		m.Data[key] = string(text)
		_, err = maps.Update(call, m, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write ConfigMap %s/%s: %w", k.Namespace, Name, err)
	}
	k.version = version
	return nil
}
