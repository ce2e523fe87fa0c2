// Package account decides which operating-system user the pods of a namespace
// run as. The answer comes from the BatchCluster alone, never from a pod, so
// nobody can ask for another's account. It is pure.
package account

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"
)

// namespaceName is the label that the API server keeps on every namespace.
const namespaceName = "kubernetes.io/metadata.name"

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
	// AllowedQOS and AllowedAccounts are those that a pod may ask for instead.
	AllowedQOS, AllowedAccounts []string
	// Partitions that may be used; empty is all.
	Partitions []string
	// MaxWalltime bounds the run time; 0 is no bound of the account's own.
	MaxWalltime time.Duration
	// AllowEnv names variables that containers may set although they are refused
	// by default; a trailing "*" is a prefix.
	AllowEnv []string
	// ServiceAccountTokens: pods may carry tokens of their service accounts.
	ServiceAccountTokens bool
}

// MaySet reports whether the account lets containers set a variable that is
// refused by default.
func (a Account) MaySet(name string) bool {
	return slices.ContainsFunc(a.AllowEnv, func(allowed string) bool {
		prefix, open := strings.CutSuffix(allowed, "*")
		return name == allowed || open && strings.HasPrefix(name, prefix)
	})
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

// maxServed bounds what a node tells of the namespaces that it serves, in bytes.
const maxServed = 32 << 10

// Served is what a node for a partition tells of the namespaces that are mapped to
// an account (wellknown.ServedNamespaces); "" when that cannot be told, and then
// who is mapped comes out once a pod is there.
func Served(entries []hpcv1alpha1.Account, partition string) string {
	texts := []string{}
	for i := range entries {
		selector, err := check(i, &entries[i])
		if err != nil {
			return ""
		}
		if fromEntry(i, &entries[i]).Allows(partition) {
			texts = append(texts, selector.String())
		}
	}
	raw, err := json.Marshal(texts)
	if err != nil || len(raw) > maxServed {
		return ""
	}
	return string(raw)
}

func check(i int, e *hpcv1alpha1.Account) (labels.Selector, error) {
	if errs := validation.Account(e, field.NewPath("spec", "accounts").Index(i)); len(errs) > 0 {
		return nil, errs.ToAggregate()
	}
	return metav1.LabelSelectorAsSelector(&e.NamespaceSelector)
}

func fromEntry(i int, e *hpcv1alpha1.Account) Account {
	a := Account{Rule: i, User: e.User, Account: e.Account, QOS: e.QOS, AllowedQOS: slices.Clone(e.AllowedQOS), Partitions: slices.Clone(e.Partitions),
		AllowedAccounts: slices.Clone(e.AllowedAccounts), AllowEnv: slices.Clone(e.AllowEnv), ServiceAccountTokens: e.ServiceAccountTokens}
	if e.MaxWalltime != nil {
		a.MaxWalltime = e.MaxWalltime.Duration
	}
	return a
}
