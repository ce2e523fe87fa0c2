//go:build tools

// Package kubernetes pins the control plane that the tests, the demo and
// `isthmus up` run: it is a module of its own because k8s.io/kubernetes needs
// every staging module replaced, which the product must not inherit.
package kubernetes

import (
	_ "go.etcd.io/etcd/server/v3"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
