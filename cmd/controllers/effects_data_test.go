package main

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/controllers/dataset"
	"github.com/isthmus-hpc/isthmus/controllers/job"
)

// dataScenes are those of Datasets that are copied.
func dataScenes() []scene {
	data := []string{job.Name, dataset.Name}
	retarget := func(targets ...hpc.DatasetTarget) func(*miniature) {
		return func(m *miniature) {
			edit(m, &hpc.Dataset{}, "d", func(d *hpc.Dataset) { d.Spec.Staging.Targets = targets })
		}
	}
	return []scene{
		{name: "a Dataset is copied after a failure, and anew when its target comes again", with: data, long: 28, begin: dataOf, script: func(p *corev1.Pod) (corev1.PodPhase, int32) {
			if p.CreationTimestamp.Minute() == 0 {
				return corev1.PodFailed, 1
			}
			return corev1.PodSucceeded, 0
		}, steps: map[int]func(*miniature){
			15: retarget(hpc.DatasetTarget{Cluster: "east", Path: "/work"}),
			18: retarget(hpc.DatasetTarget{Cluster: "hpc", Path: "/scratch"}),
		}},
		{name: "a copy is begun anew by another program, and its Job is deleted by hand", with: data, long: 14, begin: dataOf, script: forever, steps: map[int]func(*miniature){
			5: func(m *miniature) {
				edit(m, &hpc.Dataset{}, "d", func(d *hpc.Dataset) { d.Spec.Staging.Command = []string{"rsync"} })
			},
			9: func(m *miniature) {
				jobs := slices.DeleteFunc(list[batch.JobList](m).Items, func(j batch.Job) bool { return !strings.HasPrefix(j.Name, "stage-d-") })
				if len(jobs) != 1 {
					m.t.Fatalf("%d Jobs copy, want one", len(jobs))
				}
				if err := m.api.Delete(m.t.Context(), &jobs[0]); err != nil {
					m.t.Fatal(err)
				}
			},
		}},
	}
}

// dataOf is a Dataset d, and a gang that waits for its copy to hpc.
func dataOf(m *miniature) {
	m.create(copied("ns"))
	m.create(&scheduling.PodGroup{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "waits", Annotations: map[string]string{wellknown.Staging: `{"d":"hpc"}`}},
		Spec: scheduling.PodGroupSpec{MinMember: 1}})
}

// copied is a Dataset d that can be copied to hpc.
func copied(namespace string) *hpc.Dataset {
	return &hpc.Dataset{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "d"}, Spec: hpc.DatasetSpec{
		Size: kresource.MustParse("1Gi"), Locations: []hpc.DatasetLocation{{Cluster: "home", Path: "/data"}},
		Staging: &hpc.DatasetStaging{Image: "tools", Command: []string{"cp"}, Targets: []hpc.DatasetTarget{{Cluster: "hpc", Path: "/scratch"}}}}}
}
