package manifest

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PullFile is where a Pull lies in the gang's directory, when its images are
// pulled before the job is submitted.
const PullFile = "pulls.json"

// Reasons of images that are not there, as the kubelet spells those of waiting
// containers.
const (
	ReasonPulling          = "Pulling"
	ReasonErrImagePull     = "ErrImagePull"
	ReasonImagePullBackOff = "ImagePullBackOff"
	ReasonErrNeverPull     = "ErrImageNeverPull"
	ReasonInvalidImageName = "InvalidImageName"
)

// Pull says how far the pull of a gang's images is.
type Pull struct {
	Version int `json:"version"`
	// Done says that all images are there.
	Done bool `json:"done,omitempty"`
	// Failures in a row; RetryAt is when the next try may begin.
	Failures int         `json:"failures,omitempty"`
	RetryAt  metav1.Time `json:"retryAt,omitzero"`
	// Images are those of the gang, each once, in the order of its members'
	// containers. There are none before the first try.
	Images []PulledImage `json:"images,omitempty"`
}

// PulledImage is one image of a gang.
type PulledImage struct {
	Image string `json:"image"`
	Done  bool   `json:"done,omitempty"`
	// Reason and Message say why it is not there.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
}

// WantFile is where a Want lies in the pod's directory, until the containers that
// it is about are handed over.
const WantFile = "ctl/want.json"

// Want are images of containers that are to be added to a running pod, when they
// are pulled before the containers are handed over.
type Want struct {
	Version int           `json:"version"`
	Images  []WantedImage `json:"images"`
	// Secrets are .dockerconfigjson documents.
	Secrets [][]byte `json:"secrets,omitempty"`
}

// WantedImage is one of them.
type WantedImage struct {
	Image  string            `json:"image"`
	Policy corev1.PullPolicy `json:"policy,omitempty"`
}

// PullAnswer is the answer of `podrun agent pull` about one gang.
type PullAnswer struct {
	Answer
	Pull Pull `json:"pull,omitzero"`
}
