package environment

import (
	"context"
	_ "embed" // kubelet.yaml
	"fmt"
	"path/filepath"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/test/testbed/kubelet"
)

// RealNodeTaint keeps pods that do not mean it away from the real node.
const RealNodeTaint = "testbed.isthmus.sh/real-node"

//go:embed kubelet.yaml
var kubeletRights []byte

// kubeletDir is short, since it holds a socket.
func kubeletDir(dir string) string { return filepath.Join(dir, "node") }

// startKubelet adds a real node.
func (e *Environment) startKubelet(ctx context.Context, node string) error {
	if _, err := e.apply(ctx, "the real node's rights", kubeletRights); err != nil {
		return err
	}
	var err error
	e.kubelet, err = kubelet.Start(ctx, kubelet.Config{
		Dir: kubeletDir(e.Dir), Node: node, ControlPlane: e.control, Processes: e.programs,
		Labels: RealNodeTaint + "=true", Taints: RealNodeTaint + "=true:NoSchedule", Progress: e.progress,
	})
	if err != nil {
		return err
	}
	return await(ctx, time.Minute, func(ctx context.Context) error {
		var n corev1.Node
		if err := e.client.Get(ctx, client.ObjectKey{Name: node}, &n); err != nil {
			return err
		}
		for _, c := range n.Status.Conditions {
			if c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue {
				return nil
			} else if c.Type == corev1.NodeReady {
				return fmt.Errorf("node %s is not Ready: %s", node, c.Message)
			}
		}
		return fmt.Errorf("node %s has no condition Ready yet", node)
	})
}

// Kubelet is the real node, or nil when there is none or another program started it.
func (e *Environment) Kubelet() *kubelet.Kubelet { return e.kubelet }
