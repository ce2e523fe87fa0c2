package hcclrank

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
)

// table is the rank table as Ascend documents it ("hccl.json"): numbers are text. No
// library that reads it is served by a package registry without the hardware's driver,
// so it is held to the document.
type table struct {
	Version     string   `json:"version"`
	Status      string   `json:"status"`
	ServerCount string   `json:"server_count"`
	ServerList  []server `json:"server_list"`
}

type server struct {
	ServerID string   `json:"server_id"`
	Device   []device `json:"device"`
}

type device struct {
	DeviceID string `json:"device_id"`
	DeviceIP string `json:"device_ip"`
	RankID   string `json:"rank_id"`
}

// collect is what Ascend's controller makes of the pods' annotations: servers in the
// order of hccl/rankIndex, and ranks counted through their devices.
func collect(t *testing.T, pods []*corev1.Pod, devices int) []byte {
	t.Helper()
	out := table{Version: "1.0", Status: "completed", ServerCount: strconv.Itoa(len(pods)), ServerList: make([]server, len(pods))}
	for _, p := range pods {
		index, err := strconv.Atoi(p.Annotations["hccl/rankIndex"])
		if err != nil || index < 0 || index >= len(pods) {
			t.Fatalf("pod %s: hccl/rankIndex %q", p.Name, p.Annotations["hccl/rankIndex"])
		}
		s := server{ServerID: p.Name}
		for d := range devices {
			s.Device = append(s.Device, device{strconv.Itoa(d), fmt.Sprintf("192.0.2.%d", index*devices+d), strconv.Itoa(index*devices + d)})
		}
		if out.ServerList[index].ServerID != "" {
			t.Fatalf("%s and %s have the index %d", out.ServerList[index].ServerID, p.Name, index)
		}
		out.ServerList[index] = s
	}
	raw, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// read is strict: no field too many, none empty, ranks from 0 without a gap.
func read(raw []byte) (servers []string, err error) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	var in table
	if err := d.Decode(&in); err != nil {
		return nil, err
	}
	if in.Version != "1.0" || in.Status != "completed" || in.ServerCount != strconv.Itoa(len(in.ServerList)) {
		return nil, fmt.Errorf("%+v", in)
	}
	rank := 0
	for _, s := range in.ServerList {
		if s.ServerID == "" || len(s.Device) == 0 {
			return nil, fmt.Errorf("server %+v", s)
		}
		servers = append(servers, s.ServerID)
		for i, d := range s.Device {
			if d.DeviceID != strconv.Itoa(i) || d.DeviceIP == "" || d.RankID != strconv.Itoa(rank) {
				return nil, fmt.Errorf("device %+v is to have rank %d", d, rank)
			}
			rank++
		}
	}
	return servers, nil
}

// The ranks that the pods of a job carry make a rank table, whatever order its tasks
// are in, and RANK says the same.
func TestRankTable(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args  []string
		tasks []batch.TaskSpec
		want  []string
	}{
		"master and workers": {nil, []batch.TaskSpec{{Name: "master", Replicas: 1}, {Name: "worker", Replicas: 3}}, []string{"master-0", "worker-0", "worker-1", "worker-2"}},
		"workers first":      {nil, []batch.TaskSpec{{Name: "worker", Replicas: 2}, {Name: "master", Replicas: 2}}, []string{"master-0", "master-1", "worker-0", "worker-1"}},
		"workers alone":      {nil, []batch.TaskSpec{{Name: "worker", Replicas: 2}}, []string{"worker-0", "worker-1"}},
		"other names":        {[]string{"--master=a", "--worker=b"}, []batch.TaskSpec{{Name: "a", Replicas: 1}, {Name: "b", Replicas: 1}}, []string{"a-0", "b-0"}},
	} {
		p, err := Factory().New(tt.args)
		if err != nil {
			t.Fatal(err)
		}
		job := &batch.Job{Spec: batch.JobSpec{Tasks: tt.tasks}}
		var pods []*corev1.Pod
		for i := range tt.tasks {
			for index := range tt.tasks[i].Replicas {
				pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-%d", tt.tasks[i].Name, index)}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
				p.MutatePod(job, &tt.tasks[i], index, pod)
				if env := pod.Spec.Containers[0].Env; len(env) != 1 || env[0].Name != "RANK" || env[0].Value != pod.Annotations["hccl/rankIndex"] {
					t.Errorf("%s: %s has %+v and %v", name, pod.Name, env, pod.Annotations)
				}
				pods = append(pods, pod)
			}
		}
		got, err := read(collect(t, pods, 8))
		if err != nil || !slices.Equal(got, tt.want) {
			t.Errorf("%s: %v %v, want %v", name, got, err, tt.want)
		}
	}
}
