package parity

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"
)

// testCase is one file of testdata: what is done, objects the pod refers to, and
// the pod, which is called like the file.
type testCase struct {
	name    string
	script  script
	objects []*unstructured.Unstructured
	pod     *corev1.Pod
}

// script is the first document of a file.
type script struct {
	// Steps follow the pod's creation. Without any, the pod's end is awaited.
	Steps []step `json:"steps"`
	// Unstable are the beginnings of fields that a kubelet itself does not tell
	// the same way every time; they are not compared.
	Unstable []string `json:"unstable,omitempty"`
}

// step is one action of a user, or a wait for what a user then sees.
type step struct {
	Wait      *wait                      `json:"wait,omitempty"`
	Apply     map[string]any             `json:"apply,omitempty"`
	Exec      *exec                      `json:"exec,omitempty"`
	Attach    *exec                      `json:"attach,omitempty"`
	Ephemeral *corev1.EphemeralContainer `json:"ephemeral,omitempty"`
	Delete    *deletion                  `json:"delete,omitempty"`
}

// wait is a condition; all that are given must hold.
type wait struct {
	Ended     bool   `json:"ended,omitempty"`     // Succeeded or Failed
	Phase     string `json:"phase,omitempty"`     // of the pod
	Container string `json:"container,omitempty"` // the rest is of this one, or of the first
	Ready     bool   `json:"ready,omitempty"`
	Unready   bool   `json:"unready,omitempty"` // runs, and is not ready
	Restarts  int32  `json:"restarts,omitempty"`
	Waiting   string `json:"waiting,omitempty"` // reason
	ExitCode  *int32 `json:"exitCode,omitempty"`
	Log       string `json:"log,omitempty"` // a text in it
}

type exec struct {
	Container string   `json:"container,omitempty"`
	Command   []string `json:"command,omitempty"`
	Stdin     *string  `json:"stdin,omitempty"`
	TTY       bool     `json:"tty,omitempty"`
}

type deletion struct {
	Grace *int64 `json:"grace,omitempty"`
}

// Texts in files that stand for what is known only when tests run.
const (
	markImage   = "@image@"
	markWitness = "@witness@"
)

// load reads all cases in the order of their names.
func load(dir, image, witness string) ([]testCase, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.yaml"))
	if err != nil {
		return nil, err
	}
	slices.Sort(files)
	var cases []testCase
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(raw, []byte("# ")) {
			return nil, fmt.Errorf("%s: the first line is no comment that says what is compared", file)
		}
		text := strings.NewReplacer(markImage, image, markWitness, witness).Replace(string(raw))
		c, err := parse(strings.TrimSuffix(filepath.Base(file), ".yaml"), []byte(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		cases = append(cases, c)
	}
	return cases, nil
}

func parse(name string, raw []byte) (testCase, error) {
	c := testCase{name: name}
	in := utilyaml.NewYAMLReader(bufio.NewReader(bytes.NewReader(raw)))
	for i := 0; ; i++ {
		doc, err := in.Read()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c, err
		}
		var kind struct{ Kind string }
		if err := yaml.Unmarshal(doc, &kind); err != nil {
			return c, err
		}
		switch {
		case kind.Kind == "" && i == 0:
			if err := yaml.UnmarshalStrict(doc, &c.script); err != nil {
				return c, err
			}
		case kind.Kind == "Pod" && c.pod == nil:
			c.pod = &corev1.Pod{}
			if err := yaml.UnmarshalStrict(doc, c.pod); err != nil {
				return c, err
			}
		case kind.Kind == "":
			return c, fmt.Errorf("document %d has no kind", i+1)
		default:
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(doc, u); err != nil {
				return c, err
			}
			c.objects = append(c.objects, u)
		}
	}
	if c.pod == nil || c.pod.Name != name {
		return c, errors.New("there is no pod that is called like the file")
	}
	if len(c.script.Steps) == 0 {
		c.script.Steps = []step{{Wait: &wait{Ended: true}}}
	}
	return c, nil
}
