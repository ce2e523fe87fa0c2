package grants

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes/scheme"
)

// tries is how often an update is begun again that somebody else came before.
const tries = 5

// fallback does what was asked for with other rights.
type fallback func(l *Ledger, next http.RoundTripper, r *http.Request, q request, body []byte) (*http.Response, error)

// fallbackOf is what else a request can be done by, nil for nothing.
func fallbackOf(q request) fallback {
	switch {
	case q.verb == "patch" && q.name != "" && q.resource != "events":
		return (*Ledger).update
	case q.verb == "create" && q.group == "" && q.resource == "pods" && q.below == "eviction":
		return (*Ledger).remove
	}
	return nil
}

// update does a patch by reading the object, which the right to list suffices for, and
// writing all of it: no change of others is lost, since the version that was read has
// to be the present one. Where that is denied too it is not tried each time.
func (l *Ledger) update(next http.RoundTripper, r *http.Request, q request, patch []byte) (*http.Response, error) {
	var said struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	if err := json.Unmarshal(patch, &said); err != nil {
		return nil, fmt.Errorf("read a patch: %w", err)
	}
	w := q
	w.verb = "update"
	for try := 1; ; try++ {
		if l.skip(w) {
			return answer(r, http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf(noRight+"patch %s, nor to update them", q.kind())), nil
		}
		object, refusal, err := find(next, r, q)
		if err != nil || refusal != nil {
			return refusal, err
		}
		whole, err := apply(object, patch, r.Header.Get("Content-Type"))
		if err != nil {
			return answer(r, http.StatusUnprocessableEntity, metav1.StatusReasonInvalid, fmt.Sprintf("patch %s %s: %v", q.kind(), q.name, err)), nil
		}
		put := r.Clone(r.Context())
		put.Method = http.MethodPut
		put.Header.Set("Content-Type", "application/json")
		put.Header.Set("Accept", "application/json")
		asks := put.URL.Query()
		asks.Del("force")
		put.URL.RawQuery = asks.Encode()
		fill(put, whole)
		resp, err := next.RoundTrip(put)
		if err != nil {
			return nil, err //nolint:wrapcheck // it stands for the request's own
		}
		v, err := judge(resp, w)
		if err != nil {
			return nil, err
		}
		l.note(w, v)
		// A patch that names a version, or another object by this name, must fail.
		if resp.StatusCode != http.StatusConflict || said.Metadata.ResourceVersion != "" || try == tries {
			return resp, nil
		}
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // so that the connection may be used again
		_ = resp.Body.Close()
	}
}

func fill(r *http.Request, body []byte) {
	r.Body = io.NopCloser(bytes.NewReader(body))
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	r.ContentLength = int64(len(body))
	r.Header.Del("Content-Length")
}

// apply returns an object with a patch in it.
func apply(object, patch []byte, form string) ([]byte, error) {
	form, _, _ = strings.Cut(form, ";")
	switch types.PatchType(form) {
	case types.MergePatchType:
		return jsonpatch.MergePatch(object, patch) //nolint:wrapcheck // the caller says what it is about
	case types.StrategicMergePatchType:
		var kind metav1.TypeMeta
		if err := json.Unmarshal(object, &kind); err != nil {
			return nil, fmt.Errorf("read the object: %w", err)
		}
		typed, err := scheme.Scheme.New(schema.FromAPIVersionAndKind(kind.APIVersion, kind.Kind))
		if err != nil {
			return nil, fmt.Errorf("know the object: %w", err)
		}
		return strategicpatch.StrategicMergePatch(object, patch, typed) //nolint:wrapcheck // the caller says what it is about
	}
	return nil, fmt.Errorf("patches of type %q are not known", form)
}

// find reads one object by a list, with its kind. Where there is none, or it may not be
// read, refusal is the answer to give.
func find(next http.RoundTripper, r *http.Request, q request) (object []byte, refusal *http.Response, err error) {
	at := *r.URL
	at.Path = q.base
	if q.namespace != "" {
		at.Path += "/namespaces/" + q.namespace
	}
	at.Path += "/" + q.resource
	at.RawQuery = url.Values{"fieldSelector": {"metadata.name=" + q.name}}.Encode()
	var list struct {
		metav1.TypeMeta
		Items []map[string]json.RawMessage `json:"items"`
	}
	refusal, err = read(next, r, &at, &list)
	if err != nil || refusal != nil {
		return nil, refusal, err
	}
	if len(list.Items) != 1 {
		return nil, answer(r, http.StatusNotFound, metav1.StatusReasonNotFound, fmt.Sprintf("%s %q not found", q.kind(), q.name)), nil
	}
	o := list.Items[0]
	// Members of a list of Kubernetes' own kinds do not say what they are.
	for field, value := range map[string]string{"apiVersion": list.APIVersion, "kind": strings.TrimSuffix(list.Kind, "List")} {
		if _, ok := o[field]; !ok {
			if o[field], err = json.Marshal(value); err != nil {
				return nil, nil, fmt.Errorf("encode %s: %w", field, err)
			}
		}
	}
	object, err = json.Marshal(o)
	if err != nil {
		return nil, nil, fmt.Errorf("encode the object: %w", err)
	}
	return object, nil, nil
}

// read gets JSON in the name of a request. An answer other than 200 is to be its.
func read(next http.RoundTripper, r *http.Request, at *url.URL, into any) (refusal *http.Response, err error) {
	get, err := http.NewRequestWithContext(r.Context(), http.MethodGet, at.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	get.Header = r.Header.Clone()
	get.Header.Del("Content-Type")
	get.Header.Del("Content-Length")
	get.Header.Set("Accept", "application/json")
	resp, err := next.RoundTrip(get)
	if err != nil {
		return nil, err //nolint:wrapcheck // it stands for the request's own
	}
	if resp.StatusCode != http.StatusOK {
		return resp, nil
	}
	err = json.NewDecoder(resp.Body).Decode(into)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return nil, fmt.Errorf("read an answer: %w", err)
	}
	return nil, nil
}

// remove deletes a pod in place of its eviction, if no disruption budget covers it:
// only an eviction is counted by the budgets, so one that is covered stays. As with
// an eviction, budgets are not asked about a pod that does not run.
func (*Ledger) remove(next http.RoundTripper, r *http.Request, q request, body []byte) (*http.Response, error) {
	decoded, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, nil)
	if err != nil {
		return nil, fmt.Errorf("read an eviction: %w", err)
	}
	e, ok := decoded.(*policyv1.Eviction)
	if !ok || e.DeleteOptions == nil || e.DeleteOptions.Preconditions == nil || e.DeleteOptions.Preconditions.UID == nil {
		return nil, fmt.Errorf("the eviction of pod %s/%s does not name its UID", q.namespace, q.name)
	}
	refuse := func(why string) (*http.Response, error) {
		return answer(r, http.StatusForbidden, metav1.StatusReasonForbidden, fmt.Sprintf("this scheduler has no right to create pods/eviction, and %s", why)), nil
	}
	raw, refusal, err := find(next, r, q)
	if err != nil || refusal != nil {
		return refusal, err
	}
	var pod corev1.Pod
	if err := json.Unmarshal(raw, &pod); err != nil {
		return nil, fmt.Errorf("read pod %s/%s: %w", q.namespace, q.name, err)
	}
	if pod.UID != *e.DeleteOptions.Preconditions.UID {
		return answer(r, http.StatusConflict, metav1.StatusReasonConflict, fmt.Sprintf("pod %s/%s is another one", q.namespace, q.name)), nil
	}
	if pod.DeletionTimestamp == nil && (pod.Status.Phase == corev1.PodRunning || pod.Status.Phase == corev1.PodUnknown) {
		at := *r.URL
		at.Path, at.RawQuery = strings.TrimSuffix("/"+q.prefix, "/")+"/apis/policy/v1/namespaces/"+q.namespace+"/poddisruptionbudgets", ""
		var budgets policyv1.PodDisruptionBudgetList
		refusal, err := read(next, r, &at, &budgets)
		if err != nil {
			return nil, err
		}
		if refusal != nil {
			_ = refusal.Body.Close()
			return refuse("the disruption budgets of its namespace cannot be read")
		}
		for i := range budgets.Items {
			b := &budgets.Items[i]
			s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil || s.Matches(labels.Set(pod.Labels)) {
				return refuse(fmt.Sprintf("disruption budget %s covers the pod, which only an eviction is counted by", b.Name))
			}
		}
	}
	options := *e.DeleteOptions
	options.TypeMeta = metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"}
	// Not if its labels have changed since, by which budgets cover it.
	options.Preconditions = &metav1.Preconditions{UID: &pod.UID, ResourceVersion: &pod.ResourceVersion}
	order, err := json.Marshal(options)
	if err != nil {
		return nil, fmt.Errorf("encode options: %w", err)
	}
	gone := r.Clone(r.Context())
	gone.Method = http.MethodDelete
	at := *r.URL
	at.Path = strings.TrimSuffix(r.URL.Path, "/eviction")
	gone.URL = &at
	gone.Header.Set("Content-Type", "application/json")
	gone.Header.Set("Accept", "application/json")
	fill(gone, order)
	resp, err := next.RoundTrip(gone)
	if err != nil || resp.StatusCode >= http.StatusMultipleChoices {
		return resp, err //nolint:wrapcheck // it stands for the request's own
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<20)) // so that the connection may be used again
	_ = resp.Body.Close()
	return jsonAnswer(r, http.StatusCreated, metav1.Status{TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusSuccess, Code: http.StatusCreated}), nil
}

func jsonAnswer(r *http.Request, code int, s metav1.Status) *http.Response {
	raw, err := json.Marshal(s)
	if err != nil { // a structure of texts and numbers
		raw = nil
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", code, http.StatusText(code)), StatusCode: code, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(bytes.NewReader(raw)), ContentLength: int64(len(raw)), Request: r,
	}
}
