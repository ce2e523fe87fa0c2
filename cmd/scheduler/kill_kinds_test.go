package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler/claims"
)

// The kinds of writes that schedulers are killed at.
const (
	nominates = "nomination" // room that is kept for a gang, written on its PodGroup
	shows     = "status"     // of a PodGroup
	evicts    = "eviction"
	binds     = "binding"
	guards    = "finalizer" // of a resource claim
	givings   = "devices"   // given to a resource claim
	takes     = "devices back"
	gives     = "volume" // given to a claim
	asks      = "node"   // for which a volume of a claim is to be made
)

// kindOf is the kind of a write, "" for others. It leaves the request as it was.
func kindOf(q *http.Request) string {
	path := q.URL.Path
	switch {
	case q.URL.Query().Has("dryRun"): // it asks what it may do
		return ""
	case strings.HasSuffix(path, "/eviction"):
		return evicts
	case strings.HasSuffix(path, "/binding"):
		return binds
	case q.Method != http.MethodPatch:
		return ""
	}
	text, err := io.ReadAll(q.Body)
	q.Body = io.NopCloser(bytes.NewReader(text))
	var body struct {
		Metadata struct {
			Annotations map[string]any
			Finalizers  []string
		}
		Spec   map[string]any
		Status map[string]any
	}
	if err != nil || json.Unmarshal(text, &body) != nil {
		return ""
	}
	switch {
	case strings.Contains(path, "/podgroups/") && body.Metadata.Annotations[wellknown.Nomination] != nil:
		return nominates
	case strings.Contains(path, "/podgroups/") && body.Status != nil:
		return shows
	case strings.Contains(path, "/resourceclaims/") && body.Status["allocation"] != nil:
		return givings
	case strings.Contains(path, "/resourceclaims/") && body.Status != nil:
		return takes
	case strings.Contains(path, "/resourceclaims/") && len(body.Metadata.Finalizers) > 0:
		return guards
	case strings.Contains(path, "/persistentvolumes/") && body.Spec["claimRef"] != nil:
		return gives
	case strings.Contains(path, "/persistentvolumeclaims/") && body.Metadata.Annotations[claims.SelectedNode] != nil:
		return asks
	}
	return ""
}
