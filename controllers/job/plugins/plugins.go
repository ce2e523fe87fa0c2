// Package plugins is the contract between the Job controller and its job
// plugins: what spec.plugins of a Job may name. Every plugin is a folder beside
// this file and one line in the list that the program hands to the controller.
package plugins

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

// Factory is how a plugin enters the controller.
type Factory struct {
	// Name is the key in spec.plugins.
	Name string
	// New reads the arguments strictly; its error is shown to the user.
	New func(args []string) (Plugin, error)
}

// Plugin is one plugin of one job. Its methods are pure: they touch no API and
// give the same answer for the same job. Jobs have their defaults filled in.
type Plugin interface {
	// Validate says what in the job keeps the plugin from working, nil if nothing.
	Validate(job *batch.Job) error
	// Objects are what must exist before the job's pods. The controller sets
	// their namespace and owner, creates them, and keeps the data of ConfigMaps
	// up to date when the job changes.
	Objects(job *batch.Job) []Object
	// MutatePod changes a pod before it is created.
	MutatePod(job *batch.Job, task *batch.TaskSpec, index int32, pod *corev1.Pod)
}

// Completer is a plugin with objects that hold what may be made only once, such as
// keys.
type Completer interface {
	// Complete fills in one of the plugin's objects just before it is created.
	// It need not give the same answer twice.
	Complete(job *batch.Job, o Object) error
}

// Finder is a plugin whose pods depend on what one of its objects holds that was
// there already: one that Volcano's controllers made holds less.
type Finder interface {
	// Found tells of the job's own object that was found in place of the plugin's.
	// It comes before MutatePod, and not for an object that was created just now.
	Found(o Object)
}

// Object is an API object.
type Object interface {
	metav1.Object
	runtime.Object
}

// Set is the closed list of plugins that a controller knows.
type Set []Factory

// New builds the named plugin. It fails for an unknown name, naming the known
// ones, and for bad arguments.
func (s Set) New(name string, args []string) (Plugin, error) {
	known := make([]string, 0, len(s))
	for _, f := range s {
		if f.Name == name {
			p, err := f.New(args)
			if err != nil {
				return nil, fmt.Errorf("bad arguments: %w", err)
			}
			return p, nil
		}
		known = append(known, f.Name)
	}
	return nil, fmt.Errorf("no such job plugin in this version of Isthmus, known are %q", known)
}
