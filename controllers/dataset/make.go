package dataset

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// maxPart is how much of a Dataset's name is in the name of a Job. Its pods are
// labelled with that name.
const maxPart = 30

// Variables of the program that copies, see hpc.DatasetStaging.
const (
	envName          = "ISTHMUS_DATASET"
	envSize          = "ISTHMUS_DATASET_SIZE"
	envLocations     = "ISTHMUS_DATASET_LOCATIONS"
	envSourceCluster = "ISTHMUS_SOURCE_CLUSTER"
	envSourcePath    = "ISTHMUS_SOURCE_PATH"
	envTargetCluster = "ISTHMUS_TARGET_CLUSTER"
	envTargetPath    = "ISTHMUS_TARGET_PATH"
)

// digest is a short hash of parts.
func digest(parts ...any) string {
	raw, err := json.Marshal(parts)
	if err != nil {
		panic(fmt.Sprintf("dataset: a part of an API object is no JSON: %v", err)) // all came as JSON
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// source is where the program is told to copy from: the first location on a cluster,
// since only that has a path that others can name, else the first with a path.
func source(d *hpc.Dataset) (out hpc.DatasetLocation) {
	for _, l := range d.Spec.Locations {
		if l.Cluster != "" && l.Path != "" {
			return l
		}
		if out.Path == "" {
			out = l
		}
	}
	return out
}

// recipe tells one way to make the copy from another. The size and further locations
// are no part of it: what they change does not spoil a copy that is under way.
func recipe(d *hpc.Dataset, target hpc.DatasetTarget) string {
	staging := d.Spec.Staging.DeepCopy()
	staging.Targets, staging.Retries = []hpc.DatasetTarget{target}, nil
	from := source(d)
	return digest(staging, from.Cluster, from.Path)
}

// jobName is the name of the Job of an attempt. It says what the Job is for, so that
// after a crash none is made twice.
func jobName(d *hpc.Dataset, target hpc.DatasetTarget, attempt int32) string {
	part := strings.ReplaceAll(d.Name, ".", "-")
	part = strings.TrimRight(part[:min(len(part), maxPart)], "-")
	return "stage-" + part + "-" + digest(d.UID, target.Cluster, target.Path, recipe(d, target), attempt)
}

// newJob is the Job of an attempt.
func newJob(d *hpc.Dataset, target hpc.DatasetTarget, attempt int32) *batch.Job {
	s := d.Spec.Staging.DeepCopy()
	selector := map[string]string{}
	for k, v := range target.NodeSelector {
		selector[k] = v
	}
	selector[wellknown.Cluster] = target.Cluster
	pod := corev1.PodSpec{
		RestartPolicy:      corev1.RestartPolicyNever,
		NodeSelector:       selector,
		ServiceAccountName: s.ServiceAccountName,
		Volumes:            s.Volumes,
		Containers: []corev1.Container{{
			Name: "copy", Image: s.Image, Command: s.Command, Args: s.Args, Resources: s.Resources, VolumeMounts: s.VolumeMounts,
			Env: append(environment(d, target), s.Env...),
		}},
	}
	for _, t := range target.Tolerations {
		pod.Tolerations = append(pod.Tolerations, *t.DeepCopy())
	}
	if s.ServiceAccountName == "" {
		pod.AutomountServiceAccountToken = ptr.To(false)
	}
	return &batch.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: d.Namespace,
			Name:      jobName(d, target, attempt),
			Labels:    map[string]string{wellknown.Cluster: target.Cluster},
			// When its Dataset is deleted, it is there until its pods are gone, as when it is
			// deleted here: they may write, and a Dataset of the same name is to wait.
			Finalizers:      []string{metav1.FinalizerDeleteDependents},
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(d, hpc.GroupVersion.WithKind("Dataset"))},
		},
		Spec: batch.JobSpec{
			MinAvailable: 1,
			Queue:        s.Queue,
			Tasks: []batch.TaskSpec{{Name: "copy", Replicas: 1, Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Annotations: annotations(d)}, Spec: pod}}},
		},
	}
}

// annotations are those of the pod. It does not wait for what it makes.
func annotations(d *hpc.Dataset) map[string]string {
	out := maps.Clone(d.Spec.Staging.Annotations)
	if _, ok := out[wellknown.Datasets]; !ok {
		return out
	}
	names := slices.DeleteFunc(strings.Split(out[wellknown.Datasets], ","), func(n string) bool { return strings.TrimSpace(n) == d.Name })
	out[wellknown.Datasets] = strings.Join(names, ",")
	if len(names) == 0 {
		delete(out, wellknown.Datasets)
	}
	return out
}

// environment tells the program what to copy.
func environment(d *hpc.Dataset, target hpc.DatasetTarget) []corev1.EnvVar {
	from := source(d)
	locations, err := json.Marshal(d.Spec.Locations)
	if err != nil {
		panic(fmt.Sprintf("dataset: locations are no JSON: %v", err)) // they came as JSON
	}
	var out []corev1.EnvVar
	for _, v := range [][2]string{
		{envName, d.Name}, {envSize, strconv.FormatInt(d.Spec.Size.Value(), 10)}, {envLocations, string(locations)},
		{envSourceCluster, from.Cluster}, {envSourcePath, from.Path}, {envTargetCluster, target.Cluster}, {envTargetPath, target.Path},
	} {
		// $(NAME) in a path is no variable.
		out = append(out, corev1.EnvVar{Name: v[0], Value: strings.ReplaceAll(v[1], "$", "$$")})
	}
	return out
}
