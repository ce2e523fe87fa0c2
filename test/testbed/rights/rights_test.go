package rights

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func roles() Roles {
	subject := []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Namespace: "ns", Name: "a"}, {Kind: rbacv1.ServiceAccountKind, Namespace: "other", Name: "a"}}
	return Roles{
		ClusterRoles: []rbacv1.ClusterRole{{ObjectMeta: metav1.ObjectMeta{Name: "wide"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{""}, Resources: []string{"pods"}, Verbs: []string{"list", "delete"}},
			{APIGroups: []string{"g"}, Resources: []string{"jobs/status"}, Verbs: []string{"patch"}},
		}}},
		Roles: []rbacv1.Role{{ObjectMeta: metav1.ObjectMeta{Name: "narrow", Namespace: "leases"}, Rules: []rbacv1.PolicyRule{
			{APIGroups: []string{"c"}, Resources: []string{"leases"}, ResourceNames: []string{"mine"}, Verbs: []string{"update"}},
		}}},
		ClusterRoleBindings: []rbacv1.ClusterRoleBinding{{RoleRef: rbacv1.RoleRef{Kind: "ClusterRole", Name: "wide"}, Subjects: subject}},
		RoleBindings: []rbacv1.RoleBinding{{
			ObjectMeta: metav1.ObjectMeta{Namespace: "leases"}, RoleRef: rbacv1.RoleRef{Kind: "Role", Name: "narrow"}, Subjects: subject,
		}},
	}
}

func line(user, verb, group, resource, sub, namespace, name, decision string) string {
	return `{"verb":"` + verb + `","user":{"username":"` + user + `"},"objectRef":{"resource":"` + resource + `","subresource":"` + sub +
		`","apiGroup":"` + group + `","namespace":"` + namespace + `","name":"` + name + `"},"annotations":{"authorization.k8s.io/decision":"` + decision + `"}}` + "\n"
}

func words(rights []Right) string {
	var out []string
	for _, r := range rights {
		out = append(out, strings.TrimPrefix(r.String(), "system:serviceaccount:ns:"))
	}
	return strings.Join(out, "; ")
}

func TestCompare(t *testing.T) {
	granted, err := roles().Granted("ns")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := words(granted), "a: delete pods; a: list pods; a: update leases.c mine in leases; a: patch jobs/status.g"; got != want {
		t.Errorf("granted %s\nwant    %s", got, want)
	}
	const a = "system:serviceaccount:ns:a"
	log := line(a, "list", "", "pods", "", "", "", "allow") +
		line(a, "list", "", "pods", "", "x", "", "allow") +
		line(a, "update", "c", "leases", "", "leases", "theirs", "allow") + // by another role
		line(a, "update", "c", "leases", "", "elsewhere", "mine", "forbid") +
		line(a, "delete", "", "pods", "", "x", "p", "forbid") +
		line("b", "patch", "g", "jobs", "status", "x", "j", "allow") + // by somebody else
		`{"verb":"get","requestURI":"/apis","user":{"username":"` + a + `"}}` + "\n" +
		`{"verb":"get","user":{"userna`
	var asked Requests
	if err := asked.Read(strings.NewReader(log)); err != nil {
		t.Fatal(err)
	}
	if err := asked.Read(strings.NewReader(line(a, "patch", "g", "jobs", "status", "x", "j", "allow"))); err != nil {
		t.Fatal(err)
	}
	if asked.Count != 7 {
		t.Errorf("%d requests", asked.Count)
	}
	if got, want := words(asked.Idle(granted)), "a: delete pods; a: update leases.c mine in leases"; got != want {
		t.Errorf("idle %s\nwant %s", got, want)
	}
	if got, want := words(asked.Elsewhere(granted)), "b: patch jobs/status.g j in x; a: update leases.c theirs in leases"; got != want {
		t.Errorf("elsewhere %s\nwant      %s", got, want)
	}
	if got, want := words(asked.Denied), "a: delete pods p in x; a: update leases.c mine in elsewhere"; got != want {
		t.Errorf("denied %s\nwant   %s", got, want)
	}
	if got, want := words(asked.Missing(granted)), "a: update leases.c mine in elsewhere"; got != want {
		t.Errorf("missing %s\nwant    %s", got, want)
	}
}

func TestWhatCannotBeCompared(t *testing.T) {
	r := roles()
	r.ClusterRoles[0].Rules[0].Verbs = []string{"*"}
	r.Roles = nil
	if _, err := r.Granted("ns"); err == nil || !strings.Contains(err.Error(), "cannot be compared") || !strings.Contains(err.Error(), "narrow is bound") {
		t.Errorf("error %v", err)
	}
	var asked Requests
	if err := asked.Read(strings.NewReader("{\n{}\n")); err == nil {
		t.Error("a broken line in the middle is taken")
	}
	if got := slices.Concat(asked.Allowed, asked.Denied); len(got) > 0 {
		t.Errorf("%v", got)
	}
}
