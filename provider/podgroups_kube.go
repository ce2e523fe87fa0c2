package provider

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
)

// groupPage is how many PodGroups one answer of the API server lists.
const groupPage = 500

// groupBody is what is read of a PodGroup.
type groupBody struct {
	Metadata struct {
		Name string `json:"name"`
	} `json:"metadata"`
	Spec struct {
		MinMember int32 `json:"minMember"`
	} `json:"spec"`
}

// PodGroup reads the minimum of a PodGroup of Volcano's kind.
func (k *kubeObjects) PodGroup(ctx context.Context, namespace, name string) (int32, error) {
	var group groupBody
	err := k.readGroups(ctx, k.groupsOf(namespace).Name(name), &group)
	return group.Spec.MinMember, err
}

// PodGroups reads the minima of all PodGroups of a namespace, some at a time.
func (k *kubeObjects) PodGroups(ctx context.Context, namespace string) (map[string]int32, error) {
	out := map[string]int32{}
	for next := ""; ; {
		var page struct {
			Metadata struct {
				Continue string `json:"continue"`
			} `json:"metadata"`
			Items []groupBody `json:"items"`
		}
		request := k.groupsOf(namespace).Param("limit", strconv.Itoa(groupPage))
		if next != "" {
			request = request.Param("continue", next)
		}
		if err := k.readGroups(ctx, request, &page); err != nil {
			return nil, err
		}
		for _, g := range page.Items {
			out[g.Metadata.Name] = g.Spec.MinMember
		}
		if next = page.Metadata.Continue; next == "" {
			return out, nil
		}
	}
}

func (k *kubeObjects) groupsOf(namespace string) *rest.Request {
	return k.client.CoreV1().RESTClient().Get().AbsPath("/apis/scheduling.volcano.sh/v1beta1").
		Namespace(namespace).Resource("podgroups").SetHeader("Accept", "application/json")
}

func (k *kubeObjects) readGroups(ctx context.Context, request *rest.Request, into any) error {
	result := request.Do(ctx)
	// Raw takes every refusal for an unexpected one; Error reads what it says.
	if err := result.Error(); err != nil {
		if apierrors.IsNotFound(err) && !names(err) {
			return ErrNoPodGroups
		}
		return err
	}
	raw, err := result.Raw()
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, into); err != nil {
		return fmt.Errorf("decode the answer: %w", err)
	}
	return nil
}

// names reports whether a refusal is about an object rather than about its path,
// which the API server answers with plain text.
func names(err error) bool {
	var told apierrors.APIStatus
	if _, plain := apierrors.StatusCause(err, metav1.CauseTypeUnexpectedServerResponse); plain || !errors.As(err, &told) {
		return false
	}
	details := told.Status().Details
	return details != nil && details.Name != ""
}
