package events_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/isthmus-hpc/isthmus/provider/events"
)

// The places where a reason is written in the sources of bridge and runner.
var written = []*regexp.Regexp{
	regexp.MustCompile(`&waiting\{"(\w+)"`),
	regexp.MustCompile(`const queueFull = "(\w+)"`),
	regexp.MustCompile(`\bevent\("(?:Normal|Warning)", "(\w+)"`),
	regexp.MustCompile(`\bp\.event\("(\w+)"`),
	regexp.MustCompile(`\btell\([^\n]*corev1\.EventType\w+, "(\w+)"`),
	regexp.MustCompile(`m\.reason = "(SubmitRejected|Retrying)"`),
	regexp.MustCompile(`step\.Reason = "(EvidenceUnreadable)"`), // the only step that is told
	regexp.MustCompile(`\bwait\("(\w+)"`),
	regexp.MustCompile(`\tReason(?:InvalidSpec|Config|ImageName|Mount) += "(\w+)"`),
	regexp.MustCompile(`Eventf\([^\n]*corev1\.EventType\w+, "(\w+)"`),
}

// Every reason has its words, once, and every one with words is told somewhere;
// the guide for users has the same.
func TestReasons(t *testing.T) {
	found := map[string]bool{}
	for _, dir := range []string{"..", filepath.Join("..", "..", "cmd", "podrun"), filepath.Join("..", "..", "cmd", "vnode")} {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, form := range written {
				for _, m := range form.FindAllSubmatch(raw, -1) {
					found[string(m[1])] = true
				}
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for reason := range found {
		if events.Reasons[reason] == "" {
			t.Errorf("reason %s has no words", reason)
		}
	}
	raw, err := os.ReadFile(filepath.Join("..", "USERS.md"))
	if err != nil {
		t.Fatal(err)
	}
	guide := string(raw)
	words := map[string]string{}
	for reason, text := range events.Reasons {
		if !found[reason] {
			t.Errorf("reason %s is told nowhere", reason)
		}
		if other := words[text]; other != "" {
			t.Errorf("%s and %s have the same words", reason, other)
		}
		words[text] = reason
		if row := "| `" + reason + "` | " + text + " |\n"; !strings.Contains(guide, row) {
			t.Errorf("USERS.md lacks the row\n%s", row)
		}
	}
	t.Logf("%d reasons", len(events.Reasons))
}

// sink is an API server that knows names only.
type sink struct {
	names   []string
	patches int
}

func (s *sink) Create(e *corev1.Event) (*corev1.Event, error) {
	if slices.Contains(s.names, e.Name) {
		return nil, apierrors.NewAlreadyExists(schema.GroupResource{Resource: "events"}, e.Name)
	}
	s.names = append(s.names, e.Name)
	return e, nil
}

func (s *sink) Update(e *corev1.Event) (*corev1.Event, error) { return e, nil }

func (s *sink) Patch(e *corev1.Event, _ []byte) (*corev1.Event, error) {
	s.patches++
	return e, nil
}

// One thing of one object is one event, whoever tells it and how often.
func TestSink(t *testing.T) {
	api := &sink{}
	event := func(uid, reason, message string) *corev1.Event {
		e := &corev1.Event{Type: corev1.EventTypeWarning, Reason: reason, Message: message}
		e.InvolvedObject.UID, e.InvolvedObject.Name = "u", strings.Repeat("long-", 50)
		e.InvolvedObject.UID += "-" + e.InvolvedObject.UID
		e.InvolvedObject.FieldPath = uid
		e.Name = "by-time"
		return e
	}
	for range 3 { // three lives of a daemon
		s := events.Sink{EventSink: api}
		for _, e := range []*corev1.Event{event("1", "A", "x"), event("1", "A", "y"), event("1", "B", "x"), event("2", "A", "x")} {
			if _, err := s.Create(e); err != nil {
				t.Fatal(err)
			}
			if e.Name != "by-time" {
				t.Error("the recorder's own event was changed")
			}
		}
	}
	if len(api.names) != 4 || api.patches != 8 {
		t.Errorf("%d events and %d patches, want 4 and 8: %q", len(api.names), api.patches, api.names)
	}
	for _, name := range api.names {
		if len(name) > 253 {
			t.Errorf("a name of %d characters", len(name))
		}
	}
}
