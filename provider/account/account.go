// Package account decides which operating-system user the pods of a namespace
// run as. The answer comes from the BatchCluster alone, never from a pod, so
// nobody can ask for another's account. It is pure.
package account

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// namespaceName is the label that the API server keeps on every namespace.
const namespaceName = "kubernetes.io/metadata.name"

// userPattern is what a user may be called, as in the BatchCluster's schema. A
// leading dash or digit would be read as an option or a number by the tools
// that take a user's name.
var userPattern = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)

// tokenPattern bounds names that reach the batch system as option values.
var tokenPattern = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,127}$`)

// ErrNoMatch says that no entry of spec.accounts selects the namespace.
var ErrNoMatch = errors.New("no entry of spec.accounts selects the namespace")

// Account is the outcome of the mapping.
type Account struct {
	// Rule is the index in spec.accounts that decided.
	Rule int
	// User that jobs run as; never root.
	User string
	// Account to charge and QOS to submit with; empty is the batch system's default.
	Account string
	QOS     string
	// Partitions that may be used; empty is all.
	Partitions []string
	// MaxWalltime bounds the run time; 0 is no bound of the account's own.
	MaxWalltime time.Duration
}

// Allows reports whether the account may use the partition.
func (a Account) Allows(partition string) bool {
	return len(a.Partitions) == 0 || slices.Contains(a.Partitions, partition)
}

// Map finds the first entry whose selector matches the namespace. An entry that
// is itself wrong ends the search with an error, since a later entry might give
// more rights than the one that was meant. ErrNoMatch is wrapped when nothing
// matches.
func Map(entries []hpcv1alpha1.Account, namespace string, namespaceLabels map[string]string) (Account, error) {
	if namespace == "" {
		return Account{}, errors.New("map account: the pod has no namespace")
	}
	set := labels.Set(maps.Clone(namespaceLabels))
	if set == nil {
		set = labels.Set{}
	}
	// The API server sets this label; a cache that lags must not change the answer.
	set[namespaceName] = namespace
	for i := range entries {
		selector, err := check(i, &entries[i])
		if err != nil {
			return Account{}, fmt.Errorf("map account of namespace %s: %w", namespace, err)
		}
		if selector.Matches(set) {
			return fromEntry(i, &entries[i]), nil
		}
	}
	return Account{}, fmt.Errorf("map account of namespace %s: %w: add one whose namespaceSelector matches, for example matchLabels {%s: %s}",
		namespace, ErrNoMatch, namespaceName, namespace)
}

// Validate checks all entries. All mistakes are reported, each with its field.
func Validate(entries []hpcv1alpha1.Account) error {
	if len(entries) == 0 {
		return errors.New("spec.accounts: at least one entry is needed")
	}
	var errs []error
	for i := range entries {
		if _, err := check(i, &entries[i]); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func check(i int, e *hpcv1alpha1.Account) (labels.Selector, error) {
	field := fmt.Sprintf("spec.accounts[%d]", i)
	selector, err := metav1.LabelSelectorAsSelector(&e.NamespaceSelector)
	if err != nil {
		return nil, fmt.Errorf("%s.namespaceSelector: %w", field, err)
	}
	if e.User == "root" {
		return nil, fmt.Errorf("%s.user: jobs never run as root; name an ordinary user", field)
	}
	if !userPattern.MatchString(e.User) || strings.HasSuffix(e.User, "\n") {
		return nil, fmt.Errorf("%s.user: %q is not a user name (%s)", field, clip(e.User), userPattern)
	}
	tokens := []struct{ name, value string }{{"account", e.Account}, {"qos", e.QOS}}
	for _, p := range e.Partitions {
		tokens = append(tokens, struct{ name, value string }{"partitions", p})
		if p == "" {
			return nil, fmt.Errorf("%s.partitions: an entry is empty", field)
		}
	}
	for _, t := range tokens {
		if t.value != "" && !tokenPattern.MatchString(t.value) {
			return nil, fmt.Errorf("%s.%s: %q is not a name that a batch system knows (%s)", field, t.name, clip(t.value), tokenPattern)
		}
	}
	if e.MaxWalltime != nil && e.MaxWalltime.Duration <= 0 {
		return nil, fmt.Errorf("%s.maxWalltime: %s must be more than zero", field, e.MaxWalltime.Duration)
	}
	return selector, nil
}

func fromEntry(i int, e *hpcv1alpha1.Account) Account {
	a := Account{Rule: i, User: e.User, Account: e.Account, QOS: e.QOS, Partitions: slices.Clone(e.Partitions)}
	if e.MaxWalltime != nil {
		a.MaxWalltime = e.MaxWalltime.Duration
	}
	return a
}

func clip(s string) string {
	if len(s) > 64 {
		return s[:64] + "..."
	}
	return s
}
