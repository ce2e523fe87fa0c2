// Package grants has the scheduler live with the rights that it is given. It sits
// between the program and the API server, and knows by the answers what the roles do
// not grant: it says so once, with what is lost by it, says so again when that has
// changed, and does what was asked for by another right where that is as safe. What
// is denied is asked for again, so that roles may be changed while the program runs.
package grants

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Again is how long a write that was denied, and that another right stands in for, is not
// asked for again. Others are always asked for: who writes waits between two tries anyway,
// and a denial of a moment must not become one of minutes.
const Again = 2 * time.Minute

// Stale is after how long a denial of a write counts no more that nobody came upon since:
// what was to be written may be gone, and then nothing would ever tell that it is granted.
const Stale = 15 * time.Minute

// maxAnswer bounds what is read of a refusal.
const maxAnswer = 64 << 10

// Read is the verb of a right to list and watch: a program that follows a kind needs both.
const Read = "list, watch"

// Right is what a role may grant.
type Right struct {
	Verb string // as RBAC names it, or Read
	// Resource as RBAC names it, a subresource after a slash; a group follows a dot.
	Resource string
}

// String is for people.
func (r Right) String() string { return r.Verb + " " + r.Resource }

// Ledger holds which rights were denied. Its methods are safe for concurrent use.
type Ledger struct {
	// Now is the clock.
	Now func() time.Time
	// Evicts has Refresh ask whether pods may be evicted.
	Evicts bool
	// Report is told of a right that is denied, and of one that is granted after all or
	// was not wanted for long, one at a time and in this order. It must not call the ledger.
	Report func(r Right, denied bool)

	telling sync.Mutex // over a change and its report; taken before mu
	mu      sync.Mutex
	denied  map[place]*denial
	missing map[Right]int // in how many namespaces
	next    http.RoundTripper
	server  *url.URL
	as      http.Header // of the last request
}

// place is a right in one namespace, "" for everywhere.
type place struct {
	Right
	namespace string
}

// denial is what is known of a right that was denied.
type denial struct {
	// Of a write: since when it is denied, when it last was, and when it is asked for again.
	since, last, until time.Time

	list, watch bool
	ask         *url.URL // of what cannot be listed
}

// Wrap is for a rest.Config.
func (l *Ledger) Wrap(next http.RoundTripper) http.RoundTripper {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next = next
	return noting{l, next}
}

// noting is a transport from whose answers the ledger learns.
type noting struct {
	ledger *Ledger
	next   http.RoundTripper
}

// RoundTrip implements http.RoundTripper.
func (n noting) RoundTrip(r *http.Request) (*http.Response, error) { return n.ledger.pass(n.next, r) }

// Denied reports whether a kind may not be followed, by the last answer.
func (l *Ledger) Denied(resource string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.denied[place{Right: Right{Read, resource}}] != nil
}

// Refresh asks again for all kinds that may not be followed, and, for a program that
// evicts, whether it may; it blocks until all is answered. An API server that has just started
// denies what it grants a moment later. Writes are asked for when there is something to
// write; those that were not for long are forgotten.
func (l *Ledger) Refresh(ctx context.Context) {
	l.forget()
	l.mu.Lock()
	next, server, as := l.next, l.server, l.as
	var lists []*url.URL
	namespaces := map[string]bool{}
	if l.Evicts {
		namespaces[metav1.NamespaceDefault] = true
	}
	for p, d := range l.denied {
		switch {
		case p.Verb == Read && d.ask != nil:
			lists = append(lists, d.ask)
		case p.Right == Evict:
			namespaces[p.namespace] = true
		}
	}
	l.mu.Unlock()
	if next == nil || server == nil {
		return
	}
	for _, at := range lists {
		q, may := l.ask(ctx, next, as, http.MethodGet, at, "")
		if may {
			q.verb = "watch" // until that is denied again
			l.note(q, granted)
		}
	}
	for n := range namespaces {
		// Of no pod, and not meant: what is allowed is looked at first.
		at := server.JoinPath("api", "v1", "namespaces", n, "pods", nobody, "eviction")
		at.RawQuery = "dryRun=All"
		l.ask(ctx, next, as, http.MethodPost, at, `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"`+nobody+`","namespace":"`+n+`"},"deleteOptions":{"dryRun":["All"],"preconditions":{"uid":"`+nobody+`"}}}`)
	}
}

// Evict is the right to have pods go as their disruption budgets allow.
var Evict = Right{"create", "pods/eviction"}

// nobody is the name of a pod that is not there.
const nobody = "isthmus-asks-for-its-rights"

// ask sends a request for the sake of its answer, and reports whether it was granted.
func (l *Ledger) ask(ctx context.Context, next http.RoundTripper, as http.Header, method string, at *url.URL, body string) (q request, may bool) {
	var sent io.Reader
	if body != "" {
		sent = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(ctx, method, at.String(), sent)
	if err != nil {
		return q, false
	}
	r.Header = as.Clone()
	r.Header.Del("Content-Length")
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Content-Type", "application/json")
	q, ok := parse(r)
	if !ok {
		return q, false
	}
	resp, err := next.RoundTrip(r)
	if err != nil {
		return q, false
	}
	v, err := judge(resp, q)
	if err == nil {
		l.note(q, v)
		_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, maxAnswer)) // so that the connection may be used again
		_ = resp.Body.Close()
	}
	return q, err == nil && v == granted && resp.StatusCode == http.StatusOK
}

func (l *Ledger) pass(next http.RoundTripper, r *http.Request) (*http.Response, error) {
	q, ok := parse(r)
	if !ok {
		return next.RoundTrip(r)
	}
	l.know(r, q)
	other := fallbackOf(q)
	var body []byte
	if r.Body != nil && other != nil {
		var err error
		if body, err = io.ReadAll(r.Body); err != nil {
			return nil, fmt.Errorf("read what is to be sent: %w", err)
		}
		_ = r.Body.Close()
		r = r.Clone(r.Context())
		r.Body = io.NopCloser(bytes.NewReader(body))
	}
	if other != nil && l.skip(q) {
		return other(l, next, r, q, body)
	}
	resp, err := next.RoundTrip(r)
	if err != nil {
		return resp, err
	}
	v, err := judge(resp, q)
	if err != nil {
		return nil, err
	}
	l.note(q, v)
	if v == denied && other != nil {
		_ = resp.Body.Close()
		return other(l, next, r, q, body)
	}
	return resp, nil
}

// know keeps where the API server is and as whom it is asked: what says so is put on a
// request before it comes here.
func (l *Ledger) know(r *http.Request, q request) {
	as := r.Header.Clone()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.as = as
	if l.server == nil {
		l.server = &url.URL{Scheme: r.URL.Scheme, Host: r.URL.Host, Path: "/" + q.prefix}
	}
}

// skip reports whether a write is not to be tried now: it was denied.
func (l *Ledger) skip(q request) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	d := l.denied[q.place()]
	return d != nil && l.Now().Before(d.until)
}

// verdict is what an answer says of a right.
type verdict int

const (
	silent verdict = iota // nothing: the API server did not come to look
	granted
	denied
)

// judge reads what an answer says of the right that was asked for. Other things are
// forbidden too: by a quota, an admission, or since a namespace goes away. Too many
// requests are turned away before any right is looked at; only evictions are answered so
// by a disruption budget.
func judge(resp *http.Response, q request) (verdict, error) {
	switch code := resp.StatusCode; {
	case code == http.StatusUnauthorized || code >= http.StatusInternalServerError:
		return silent, nil
	case code != http.StatusForbidden && code != http.StatusTooManyRequests:
		return granted, nil
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		_ = resp.Body.Close()
		return silent, fmt.Errorf("read a refusal: %w", err)
	}
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(bytes.NewReader(text))
	switch {
	case resp.StatusCode == http.StatusTooManyRequests && !bytes.Contains(text, []byte(policyv1.DisruptionBudgetCause)):
		return silent, nil
	case resp.StatusCode == http.StatusForbidden && (q.reads() || bytes.Contains(text, []byte(" cannot "+q.verb+" resource "))):
		return denied, nil
	}
	return granted, nil
}

// lacks is in what the API server, or this package for it, says of a right that is missing.
var lacks = regexp.MustCompile(" cannot [a-z]+ resource |" + noRight)

// noRight begins what this package says of it.
const noRight = "this scheduler has no right to "

// Lacks reports whether an error says that no role grants what was asked for, which is
// reported already.
func Lacks(err error) bool { return apierrors.IsForbidden(err) && lacks.MatchString(err.Error()) }

// forget drops the denials of writes that nobody came upon for long.
func (l *Ledger) forget() {
	l.telling.Lock()
	defer l.telling.Unlock()
	var over []Right
	l.mu.Lock()
	for p, d := range l.denied {
		// Evictions are asked for by Refresh itself.
		if p.Verb == Read || p.Right == Evict || l.Now().Sub(d.last) < Stale {
			continue
		}
		delete(l.denied, p)
		if l.missing[p.Right]--; l.missing[p.Right] == 0 {
			over = append(over, p.Right)
		}
	}
	l.mu.Unlock()
	if l.Report == nil {
		return
	}
	for _, r := range over {
		l.Report(r, false)
	}
}

// note takes an answer in.
func (l *Ledger) note(q request, v verdict) {
	if v == silent {
		return
	}
	l.telling.Lock()
	defer l.telling.Unlock()
	p := q.place()
	l.mu.Lock()
	d := l.denied[p]
	had := d != nil
	if d == nil {
		d = &denial{since: l.Now()}
	}
	switch {
	case !q.reads():
		d.last = l.Now()
		// Where nothing stands in, a denial of a moment costs no more than as long again.
		pause := min(Again, d.last.Sub(d.since))
		if fallbackOf(q) != nil {
			pause = Again
		}
		d.until = d.last.Add(pause)
	case q.verb == "list":
		d.list, d.ask = v == denied, q.ask
	default:
		d.watch = v == denied
		if v == granted && q.streams {
			d.list = false // what it would have listed came along
		}
	}
	has := v == denied
	if q.reads() {
		has = d.list || d.watch
	}
	news := false
	switch {
	case has && !had:
		if l.denied == nil {
			l.denied, l.missing = map[place]*denial{}, map[Right]int{}
		}
		l.denied[p] = d
		l.missing[p.Right]++
		news = l.missing[p.Right] == 1
	case !has && had:
		delete(l.denied, p)
		l.missing[p.Right]--
		news = l.missing[p.Right] == 0
	}
	l.mu.Unlock()
	if news && l.Report != nil {
		l.Report(p.Right, has)
	}
}

// answer is one of the API server's, made here.
func answer(r *http.Request, code int, reason metav1.StatusReason, message string) *http.Response {
	return jsonAnswer(r, code, metav1.Status{
		TypeMeta: metav1.TypeMeta{Kind: "Status", APIVersion: "v1"}, Status: metav1.StatusFailure, Message: message, Reason: reason, Code: int32(code), //nolint:gosec // a status of HTTP
	})
}

// request is what is asked of the API server.
type request struct {
	verb                             string
	group, version                   string
	namespace, resource, name, below string
	streams                          bool     // a watch that begins with all there is
	ask                              *url.URL // lists one object
	prefix                           string   // the path of the API server, where it is not alone at its address
	base                             string   // the path of the group and version
}

func (q request) reads() bool { return q.verb == "list" || q.verb == "watch" }

func (q request) kind() string {
	out := q.resource
	if q.below != "" {
		out += "/" + q.below
	}
	if q.group != "" {
		out += "." + q.group
	}
	return out
}

func (q request) right() Right {
	if q.reads() {
		return Right{Read, q.kind()}
	}
	return Right{q.verb, q.kind()}
}

// place is where a right counts: what is read in a single namespace says nothing of
// all, and single objects are read with rights of their own.
func (q request) place() place { return place{q.right(), q.namespace} }

// parse reads a request for resources; others it does not know.
func parse(r *http.Request) (q request, ok bool) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	root := slices.IndexFunc(parts, func(p string) bool { return p == "api" || p == "apis" })
	if root < 0 {
		return q, false
	}
	q.prefix = strings.Join(parts[:root], "/")
	depth := map[string]int{"api": 2, "apis": 3}[parts[root]]
	if len(parts) <= root+depth {
		return q, false
	}
	q.base = "/" + strings.Join(parts[:root+depth], "/")
	q.version = parts[root+depth-1]
	if depth == 3 {
		q.group = parts[root+1]
	}
	parts = parts[root+depth:]
	if parts[0] == "namespaces" && len(parts) >= 3 && parts[2] != "status" && parts[2] != "finalize" {
		q.namespace, parts = parts[1], parts[2:]
	}
	q.resource = parts[0]
	if len(parts) > 1 {
		q.name = parts[1]
	}
	if len(parts) > 2 {
		q.below = parts[2]
	}
	asks := r.URL.Query()
	switch {
	case r.Method == http.MethodGet && (asks.Get("watch") == "true" || asks.Get("watch") == "1"):
		q.verb, q.streams = "watch", asks.Get("sendInitialEvents") == "true"
	case r.Method == http.MethodGet && q.name == "":
		q.verb = "list"
		at := *r.URL
		at.RawQuery = "limit=1"
		q.ask = &at
	default:
		q.verb = map[string]string{http.MethodGet: "get", http.MethodPost: "create", http.MethodPut: "update", http.MethodPatch: "patch", http.MethodDelete: "delete"}[r.Method]
	}
	return q, q.verb != "" && q.verb != "get"
}
