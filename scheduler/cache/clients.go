package cache

import (
	"fmt"

	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"volcano.sh/apis/pkg/client/clientset/versioned"
)

// Clients returns the clients to watch and to bind with. Kubernetes' own kinds are
// spoken of in protobuf, which definitions of others do not have.
//
// Nothing is compressed: an API server that is asked to compresses each event of a
// watch by itself, which costs it and us more than all else about the event, and
// saves a few hundred bytes of a network that a control plane has to itself.
func Clients(config *rest.Config) (kubernetes.Interface, versioned.Interface, error) {
	plain := rest.CopyConfig(config)
	plain.DisableCompression = true
	core := rest.CopyConfig(plain)
	core.ContentType = "application/vnd.kubernetes.protobuf"
	core.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(core)
	if err != nil {
		return nil, nil, fmt.Errorf("make client: %w", err)
	}
	volcano, err := versioned.NewForConfig(plain)
	if err != nil {
		return nil, nil, fmt.Errorf("make Volcano client: %w", err)
	}
	return client, volcano, nil
}
