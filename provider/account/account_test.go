package account_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"pgregory.net/rapid"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"

	"github.com/isthmus-hpc/isthmus/provider/account"
)

func matching(key, value string) metav1.LabelSelector {
	return metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
}

const nameLabel = "kubernetes.io/metadata.name"

func TestMap(t *testing.T) {
	entries := []hpcv1alpha1.Account{
		{NamespaceSelector: matching(nameLabel, "physics"), User: "alice", Account: "phys", QOS: "high", MaxWalltime: &metav1.Duration{Duration: time.Hour}},
		{NamespaceSelector: matching("team", "bio"), User: "bob", Partitions: []string{"debug"}},
		{NamespaceSelector: matching("all", "yes"), User: "carol"},
	}
	tests := map[string]struct {
		namespace string
		labels    map[string]string
		user      string
		rule      int
	}{
		"by name":               {"physics", nil, "alice", 0},
		"by label":              {"x", map[string]string{"team": "bio"}, "bob", 1},
		"the first wins":        {"physics", map[string]string{"team": "bio", "all": "yes"}, "alice", 0},
		"no match":              {"x", map[string]string{"team": "chem"}, "", 0},
		"a forged name label":   {"x", map[string]string{nameLabel: "physics"}, "", 0},
		"a name label is added": {"physics", map[string]string{nameLabel: "other"}, "alice", 0},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := account.Map(entries, tc.namespace, tc.labels)
			if tc.user == "" {
				if !errors.Is(err, account.ErrNoMatch) || !strings.Contains(err.Error(), "spec.accounts") || !strings.Contains(err.Error(), tc.namespace) {
					t.Errorf("error %v does not help", err)
				}
				return
			}
			if err != nil || got.User != tc.user || got.Rule != tc.rule {
				t.Errorf("%+v, %v; want %s by rule %d", got, err, tc.user, tc.rule)
			}
		})
	}
	a, _ := account.Map(entries, "physics", nil)
	if a.Account != "phys" || a.QOS != "high" || a.MaxWalltime != time.Hour || !a.Allows("any") {
		t.Errorf("account %+v", a)
	}
	b, _ := account.Map(entries, "x", map[string]string{"team": "bio"})
	if b.Allows("gpu") || !b.Allows("debug") {
		t.Errorf("partitions of %+v", b)
	}
}

func TestEmptySelectorMatchesAll(t *testing.T) {
	if a, err := account.Map([]hpcv1alpha1.Account{{User: "u"}}, "ns", nil); err != nil || a.User != "u" {
		t.Errorf("%+v, %v", a, err)
	}
}

func TestWrongEntries(t *testing.T) {
	wrong := map[string]hpcv1alpha1.Account{
		"root":        {User: "root"},
		"empty":       {},
		"uid":         {User: "0"},
		"option":      {User: "-o"},
		"newline":     {User: "alice\n"},
		"path":        {User: "../alice"},
		"root, about": {User: "Root"},
		"long":        {User: strings.Repeat("a", 65)},
		"account":     {User: "a", Account: "x y"},
		"qos option":  {User: "a", QOS: "--uid=0"},
		"partition":   {User: "a", Partitions: []string{""}},
		"max":         {User: "a", MaxWalltime: &metav1.Duration{}},
		"selector":    {User: "a", NamespaceSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Odd"}}}},
		"account nul": {User: "a", Account: "a\x00b"},
	}
	for name, e := range wrong {
		t.Run(name, func(t *testing.T) {
			// A good entry behind a wrong one must not be reached.
			entries := []hpcv1alpha1.Account{e, {User: "fallback"}}
			if a, err := account.Map(entries, "ns", nil); err == nil {
				t.Errorf("mapped to %+v", a)
			} else if errors.Is(err, account.ErrNoMatch) {
				t.Errorf("error %v hides the mistake", err)
			}
			if errs := validation.Accounts(entries, field.NewPath("spec", "accounts")); len(errs) == 0 || !strings.HasPrefix(errs[0].Field, "spec.accounts[0].") {
				t.Errorf("validation says %v", errs)
			}
		})
	}
}

// TestNeverOutsideTheMapping draws namespaces and labels at random: the user is
// always that of the first matching entry, and never root.
func TestNeverOutsideTheMapping(t *testing.T) {
	names := []string{"a", "b", "c"}
	rapid.Check(t, func(t *rapid.T) {
		var entries []hpcv1alpha1.Account
		for range rapid.IntRange(0, 4).Draw(t, "entries") {
			entries = append(entries, hpcv1alpha1.Account{
				NamespaceSelector: matching(rapid.SampledFrom([]string{nameLabel, "team"}).Draw(t, "key"), rapid.SampledFrom(names).Draw(t, "value")),
				User:              rapid.SampledFrom([]string{"u1", "u2", "root", "0", ""}).Draw(t, "user"),
			})
		}
		namespace := rapid.SampledFrom(names).Draw(t, "namespace")
		labels := rapid.MapOf(rapid.SampledFrom([]string{"team", nameLabel, "x"}), rapid.SampledFrom(names)).Draw(t, "labels")
		got, err := account.Map(entries, namespace, labels)
		if err != nil {
			if got.User != "" {
				t.Fatalf("an error came with user %q", got.User)
			}
			return
		}
		labels[nameLabel] = namespace
		for i, e := range entries {
			for k, v := range e.NamespaceSelector.MatchLabels {
				if labels[k] == v {
					if got.Rule != i || got.User != e.User || (e.User != "u1" && e.User != "u2") {
						t.Fatalf("rule %d user %q, want rule %d user %q", got.Rule, got.User, i, e.User)
					}
					return
				}
			}
		}
		t.Fatalf("%+v without a matching entry", got)
	})
}

func TestAuditRecord(t *testing.T) {
	a := account.Account{Rule: 2, User: "alice", Account: "p", QOS: "q"}
	r := a.Record(time.Unix(5, 0), "c", "ns", "gpu", "ikey", "12")
	r.Outcome, r.Pods, r.PodUIDs, r.ServiceAccounts = account.Submitted, []string{"p-0"}, []string{"u0"}, []string{"default"}
	b, err := json.Marshal(r)
	want := `{"time":"1970-01-01T00:00:05Z","outcome":"submitted","cluster":"c","rule":2,"namespace":"ns","pods":["p-0"],"podUIDs":["u0"],"serviceAccounts":["default"],"user":"alice","account":"p","qos":"q","partition":"gpu","key":"ikey","jobID":"12"}`
	if err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
}

// A node tells of the namespaces that may use its partition, as selectors that
// everybody can read.
func TestServed(t *testing.T) {
	team := func(name string) metav1.LabelSelector {
		return metav1.LabelSelector{MatchLabels: map[string]string{"team": name}}
	}
	entries := []hpcv1alpha1.Account{
		{NamespaceSelector: team("a"), User: "alice", Partitions: []string{"gpu"}},
		{NamespaceSelector: metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpIn, Values: []string{"b", "c"}}}}, User: "bob"},
	}
	for partition, want := range map[string]string{"gpu": `["team=a","team in (b,c)"]`, "cpu": `["team in (b,c)"]`} {
		if got := account.Served(entries, partition); got != want {
			t.Errorf("%s: %s, want %s", partition, got, want)
		}
	}
	if got := account.Served(append(entries, hpcv1alpha1.Account{User: "carol"}), "cpu"); got != `["team in (b,c)",""]` {
		t.Errorf("with one for all: %s", got)
	}
	if got := account.Served(append(entries, hpcv1alpha1.Account{User: "root"}), "cpu"); got != "" {
		t.Errorf("with an entry that is wrong: %s", got)
	}
	many := entries
	for range 2000 {
		many = append(many, hpcv1alpha1.Account{NamespaceSelector: team("a-team-of-some-length"), User: "dave"})
	}
	if got := account.Served(many, "gpu"); got != "" {
		t.Errorf("%d bytes for an annotation", len(got))
	}
}
