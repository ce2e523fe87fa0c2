package cache

import (
	"fmt"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"volcano.sh/apis/pkg/client/clientset/versioned"
)

// Clients returns the clients to watch and to write with: of Kubernetes' own kinds, which
// are spoken of in protobuf, of Volcano's, and of any, in JSON.
//
// Nothing is compressed: an API server that is asked to compresses each event of a
// watch by itself, which costs it and us more than all else about the event, and
// saves a few hundred bytes. The price are first lists, which are several times as long on
// the wire: they come once, and mostly from near by.
func Clients(config *rest.Config) (kubernetes.Interface, versioned.Interface, dynamic.Interface, error) {
	plain := rest.CopyConfig(config)
	plain.DisableCompression = true
	core := rest.CopyConfig(plain)
	core.ContentType = "application/vnd.kubernetes.protobuf"
	core.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	client, err := kubernetes.NewForConfig(core)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make client: %w", err)
	}
	volcano, err := versioned.NewForConfig(plain)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make Volcano client: %w", err)
	}
	anything, err := dynamic.NewForConfig(plain)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("make dynamic client: %w", err)
	}
	return client, volcano, anything, nil
}
