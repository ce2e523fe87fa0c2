package extend

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/plan"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/extender"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// What is sent is the part of Volcano's own types that is not the state of its
// scheduler, under the same names.
type (
	task struct {
		UID       string
		Job       string
		Name      string
		Namespace string
		TaskRole  string
		Priority  int32
		Pod       *corev1.Pod
	}
	node struct {
		Name string
		Node *corev1.Node
	}
	predicateRequest struct {
		Task task `json:"task"`
		Node node `json:"node"`
	}
	// predicateResponse has the reason under a name that looks like a code.
	predicateResponse struct {
		Status string `json:"status"`
		Code   int    `json:"code"`
	}
	prioritizeRequest struct {
		Task  task   `json:"task"`
		Nodes []node `json:"nodes"`
	}
	prioritizeResponse struct {
		NodeScore    map[string]float64 `json:"nodeScore"`
		ErrorMessage string             `json:"errorMessage"`
	}
)

func taskOf(pod *corev1.Pod, want ask) task {
	out := task{UID: string(pod.UID), Job: want.gang, Name: pod.Name, Namespace: pod.Namespace, TaskRole: want.task, Pod: pod}
	if pod.Spec.Priority != nil {
		out.Priority = *pod.Spec.Priority
	}
	return out
}

const (
	// atOnce bounds the requests under way.
	atOnce = 16
	// maxAnswer bounds what is read of an answer, maxScore a score.
	maxAnswer = 16 << 20
	maxScore  = 1e9
)

// caller asks about one task on nodes.
type caller struct {
	with  extender.Plugin
	task  task
	nodes []node
}

// all asks both verbs. The first failure ends it: an extender that does not answer
// would keep each of many requests waiting.
func (c *caller) all(ctx context.Context) (snapshot.Opinion, error) {
	client := &http.Client{Timeout: c.with.Timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	defer client.CloseIdleConnections()
	out := snapshot.Opinion{Nodes: make([]snapshot.NodeOpinion, len(c.nodes))}
	for i, n := range c.nodes {
		out.Nodes[i].Node = n.Name
	}
	if c.with.Predicate != "" {
		if err := c.predicates(ctx, client, out.Nodes); err != nil {
			return snapshot.Opinion{}, err
		}
	}
	if c.with.Prioritize == "" {
		return out, nil
	}
	var said prioritizeResponse
	if err := c.send(ctx, client, c.with.Prioritize, prioritizeRequest{c.task, c.nodes}, &said); err != nil {
		return snapshot.Opinion{}, err
	}
	if said.ErrorMessage != "" {
		return snapshot.Opinion{}, fmt.Errorf("%s: %s", c.with.Prioritize, said.ErrorMessage)
	}
	for i, n := range c.nodes {
		if v := said.NodeScore[n.Name]; !math.IsNaN(v) {
			out.Nodes[i].Score = int64(math.Round(min(max(v, -maxScore), maxScore)))
		}
	}
	return out, nil
}

func (c *caller) predicates(ctx context.Context, client *http.Client, out []snapshot.NodeOpinion) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var workers sync.WaitGroup
	for range min(atOnce, len(c.nodes)) {
		workers.Go(func() {
			for i := range next {
				var said predicateResponse
				if err := c.send(ctx, client, c.with.Predicate, predicateRequest{c.task, c.nodes[i]}, &said); err != nil {
					cancel(err) // the first counts
					continue
				}
				if said.Status != "" {
					out[i].Why = plan.Bound("the extender says: " + said.Status)
				}
			}
		})
	}
	for i := range c.nodes {
		if ctx.Err() != nil {
			break
		}
		next <- i
	}
	close(next)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return nil
}

func (c *caller) send(ctx context.Context, client *http.Client, verb string, question, into any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return fmt.Errorf("encode a question to the extender: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimRight(c.with.URL, "/")+"/"+verb, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("ask the extender: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case isTimeout(err):
		return fmt.Errorf("%s: no answer within %s", verb, c.with.Timeout)
	case err != nil:
		return fmt.Errorf("%s: %w", verb, err)
	}
	defer func() { _ = resp.Body.Close() }() // it was read
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case isTimeout(err):
		return fmt.Errorf("%s: no whole answer within %s", verb, c.with.Timeout)
	case err != nil:
		return fmt.Errorf("%s: %w", verb, err)
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("%s: status %s", verb, resp.Status)
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%s: the answer is no JSON of Volcano's form: %w", verb, err)
	}
	return nil
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}
