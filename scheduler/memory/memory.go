// Package memory keeps what the scheduler has learnt in a ConfigMap, so that it
// outlives the program. One scheduler writes it, the one that schedules; should two
// do so for a moment, what both know is put together.
package memory

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// Name is the name of the ConfigMap.
const Name = "isthmus-scheduler-memory"

// Learner is what learns. Its chapters are remembered and written apart: each is a key
// of the ConfigMap.
type Learner interface {
	Chapters() []string
	// Remember adds what a chapter says. It may be told the same again.
	Remember(chapter, text string) error
	// Tell writes a chapter, and says which version of it that is; "" when nothing is
	// new since one.
	Tell(chapter string, since int64) (text string, now int64, err error)
}

// Keeper reads and writes the ConfigMap.
type Keeper struct {
	Client    kubernetes.Interface
	Namespace string
	Learner   Learner
	// Every is how often what is new is written.
	Every time.Duration

	versions map[string]int64
}

const callTimeout = 15 * time.Second

// Load tells the learner what is known from before. What cannot be read is said in
// the log and learnt anew: it is no reason not to schedule.
func (k *Keeper) Load(ctx context.Context) {
	log := logr.FromContextOrDiscard(ctx)
	if err := k.Recall(ctx); err != nil {
		log.Error(err, "not all that was learnt before is known")
		return
	}
	log.V(1).Info("what was learnt before is known", "configMap", k.Namespace+"/"+Name)
}

// Recall tells the learner what is written, and what of it is not to be read.
func (k *Keeper) Recall(ctx context.Context) error {
	m, err := k.read(ctx)
	if err != nil {
		return err
	}
	return k.remember(m)
}

// remember tells the learner what is written. A chapter that is not to be read is
// left out, and written anew.
func (k *Keeper) remember(m *corev1.ConfigMap) error {
	if m == nil {
		return nil
	}
	var errs []error
	for _, chapter := range k.Learner.Chapters() {
		if text := m.Data[chapter]; text != "" {
			if err := k.Learner.Remember(chapter, text); err != nil {
				errs = append(errs, fmt.Errorf("ConfigMap %s/%s, %s: %w", k.Namespace, Name, chapter, err))
			}
		}
	}
	return errors.Join(errs...)
}

// read returns the ConfigMap, nil when there is none.
func (k *Keeper) read(ctx context.Context) (*corev1.ConfigMap, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	m, err := k.Client.CoreV1().ConfigMaps(k.Namespace).Get(call, Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil //nolint:nilnil // there is none, which is no error
	case err != nil:
		return nil, fmt.Errorf("get ConfigMap %s/%s: %w", k.Namespace, Name, err)
	}
	return m, nil
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

// news collects what is new since it was last written, by chapter.
func (k *Keeper) news() (texts map[string]string, versions map[string]int64, err error) {
	texts, versions = map[string]string{}, map[string]int64{}
	for _, chapter := range k.Learner.Chapters() {
		text, version, err := k.Learner.Tell(chapter, k.versions[chapter])
		if err != nil {
			return nil, nil, err //nolint:wrapcheck // the learner has said what it did
		}
		if text != "" {
			texts[chapter] = text
		}
		versions[chapter] = version
	}
	return texts, versions, nil
}

// Save writes what is new since it was last written. It is idempotent.
func (k *Keeper) Save(ctx context.Context) error {
	texts, versions, err := k.news()
	if err != nil || len(texts) == 0 {
		return err
	}
	m, err := k.read(ctx)
	if err != nil {
		return err
	}
	// What another has written is put to what is known here; where it is not to be
	// read, it is written anew.
	if m != nil {
		_ = k.remember(m)
		if texts, versions, err = k.news(); err != nil {
			return err
		}
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	maps := k.Client.CoreV1().ConfigMaps(k.Namespace)
	if m == nil {
		m = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: Name, Namespace: k.Namespace}, Data: texts}
		_, err = maps.Create(call, m, metav1.CreateOptions{})
	} else {
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		for chapter, text := range texts {
			m.Data[chapter] = text
		}
		_, err = maps.Update(call, m, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write ConfigMap %s/%s: %w", k.Namespace, Name, err)
	}
	k.versions = versions
	return nil
}
