// Package rights compares what service accounts may do at the API server with
// what they did, by their roles and by the API server's audit log.
package rights

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
)

// Everywhere is the namespace of a right that holds in all of them, and for
// objects in none.
const Everywhere = "*"

// Right is one verb on one resource.
type Right struct {
	User string
	// Namespace is where it holds.
	Namespace string
	// Group and Resource as RBAC names them; a subresource follows a slash.
	Group, Resource string
	// Name is the one object that it is about, "" for any.
	Name string
	Verb string
}

// String is for people.
func (r Right) String() string {
	where, which := "", ""
	if r.Namespace != Everywhere {
		where = " in " + r.Namespace
	}
	if r.Name != "" {
		which = " " + r.Name
	}
	group := ""
	if r.Group != "" {
		group = "." + r.Group
	}
	return fmt.Sprintf("%s: %s %s%s%s%s", r.User, r.Verb, r.Resource, group, which, where)
}

// covers reports whether the right allows a request.
func (r Right) covers(q Right) bool {
	return r.User == q.User && r.Group == q.Group && r.Resource == q.Resource && r.Verb == q.Verb &&
		(r.Namespace == Everywhere || r.Namespace == q.Namespace) && (r.Name == "" || r.Name == q.Name)
}

// Roles is what a cluster's RBAC holds.
type Roles struct {
	ClusterRoles        []rbacv1.ClusterRole
	Roles               []rbacv1.Role
	ClusterRoleBindings []rbacv1.ClusterRoleBinding
	RoleBindings        []rbacv1.RoleBinding
}

// Granted lists the rights of all service accounts of a namespace that are bound
// by name, each once and sorted. A role that is bound and not there is an error,
// and so is a rule of another shape than resources with verbs.
func (r Roles) Granted(namespace string) ([]Right, error) {
	var out []Right
	var errs []error
	grant := func(subjects []rbacv1.Subject, ref rbacv1.RoleRef, where string) {
		for _, s := range subjects {
			if s.Kind != rbacv1.ServiceAccountKind || s.Namespace != namespace {
				continue
			}
			rules, ok := r.rules(ref, where)
			if !ok {
				errs = append(errs, fmt.Errorf("%s %s is bound to %s and does not exist", ref.Kind, ref.Name, s.Name))
			}
			for _, rule := range rules {
				if len(rule.NonResourceURLs) > 0 || slices.Contains(slices.Concat(rule.APIGroups, rule.Resources, rule.Verbs), "*") {
					errs = append(errs, fmt.Errorf("%s %s: a rule that cannot be compared: %+v", ref.Kind, ref.Name, rule))
				}
				out = append(out, expand("system:serviceaccount:"+namespace+":"+s.Name, where, rule)...)
			}
		}
	}
	for _, b := range r.ClusterRoleBindings {
		grant(b.Subjects, b.RoleRef, Everywhere)
	}
	for _, b := range r.RoleBindings {
		grant(b.Subjects, b.RoleRef, b.Namespace)
	}
	slices.SortFunc(out, compare)
	return slices.Compact(out), errors.Join(errs...)
}

func (r Roles) rules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, bool) {
	if ref.Kind == "ClusterRole" {
		for _, c := range r.ClusterRoles {
			if c.Name == ref.Name {
				return c.Rules, true
			}
		}
		return nil, false
	}
	for _, c := range r.Roles {
		if c.Name == ref.Name && c.Namespace == namespace {
			return c.Rules, true
		}
	}
	return nil, false
}

func expand(user, namespace string, rule rbacv1.PolicyRule) []Right {
	names := rule.ResourceNames
	if len(names) == 0 {
		names = []string{""}
	}
	var out []Right
	for _, group := range rule.APIGroups {
		for _, resource := range rule.Resources {
			for _, name := range names {
				for _, verb := range rule.Verbs {
					out = append(out, Right{User: user, Namespace: namespace, Group: group, Resource: resource, Name: name, Verb: verb})
				}
			}
		}
	}
	return out
}

func compare(a, b Right) int {
	return cmp.Or(strings.Compare(a.User, b.User), strings.Compare(a.Group, b.Group), strings.Compare(a.Resource, b.Resource),
		strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name), strings.Compare(a.Verb, b.Verb))
}

// Requests is what was asked for.
type Requests struct {
	// Allowed and Denied requests, each kind once and sorted.
	Allowed, Denied []Right
	// Count is the number of all requests.
	Count int
}

// maxLine bounds a line of the log: a record without bodies is about 1 KiB.
const maxLine = 1 << 20

// Read adds the requests of an audit log, one JSON object a line. What is not
// about a resource, such as discovery, is left out: nobody is denied that. A last
// line that is not whole yet is ignored.
func (q *Requests) Read(log io.Reader) error {
	allowed, denied := map[Right]bool{}, map[Right]bool{}
	for _, r := range q.Allowed {
		allowed[r] = true
	}
	for _, r := range q.Denied {
		denied[r] = true
	}
	scanner := bufio.NewScanner(log)
	scanner.Buffer(nil, maxLine)
	var last error
	for scanner.Scan() {
		if last != nil {
			return last
		}
		var e auditv1.Event
		if err := json.Unmarshal(scanner.Bytes(), &e); err != nil {
			last = fmt.Errorf("parse audit log: %w", err)
			continue
		}
		o := e.ObjectRef
		if o == nil {
			continue
		}
		q.Count++
		r := Right{User: e.User.Username, Namespace: o.Namespace, Group: o.APIGroup, Resource: o.Resource, Name: o.Name, Verb: e.Verb}
		if o.Subresource != "" {
			r.Resource += "/" + o.Subresource
		}
		if e.Annotations["authorization.k8s.io/decision"] == "allow" {
			allowed[r] = true
		} else {
			denied[r] = true
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("read audit log: %w", err)
	}
	q.Allowed, q.Denied = sorted(allowed), sorted(denied)
	return nil
}

func sorted(set map[Right]bool) []Right {
	out := make([]Right, 0, len(set))
	for r := range set {
		out = append(out, r)
	}
	slices.SortFunc(out, compare)
	return out
}

// Missing lists the requests that were denied and that no right covers. An API
// server that has just started denies what the roles give until it has read them.
func (q Requests) Missing(granted []Right) []Right {
	return slices.DeleteFunc(slices.Clone(q.Denied), func(denied Right) bool {
		return slices.ContainsFunc(granted, func(r Right) bool { return r.covers(denied) })
	})
}

// Idle lists the rights that no request needed.
func (q Requests) Idle(granted []Right) []Right {
	var out []Right
	for _, r := range granted {
		if !slices.ContainsFunc(q.Allowed, r.covers) {
			out = append(out, r)
		}
	}
	return out
}

// Elsewhere lists the requests that were allowed by none of the rights: by
// another role, or by a group that the user is in.
func (q Requests) Elsewhere(granted []Right) []Right {
	var out []Right
	for _, used := range q.Allowed {
		if !slices.ContainsFunc(granted, func(r Right) bool { return r.covers(used) }) {
			out = append(out, used)
		}
	}
	return out
}
