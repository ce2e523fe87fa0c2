package environment

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/isthmus-hpc/isthmus/test/testbed/rights"
)

// auditPolicy records who of our programs asked the API server for what,
// without contents: it tells which rights they use and how often they call.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
    users: [%s]
  - level: None
`

// auditArgs writes the policy and returns the API server's flags for it.
func (e *Environment) auditArgs() ([]string, error) {
	users := strings.Join([]string{`"` + userControllers + `"`, `"` + userScheduler + `"`, `"` + userVnode + `"`}, ", ")
	policy := filepath.Join(e.Dir, "audit-policy.yaml")
	if err := os.WriteFile(policy, fmt.Appendf(nil, auditPolicy, users), 0o600); err != nil {
		return nil, fmt.Errorf("write audit policy: %w", err)
	}
	return []string{
		"--audit-policy-file=" + policy, "--audit-log-path=" + e.AuditFile(),
		"--audit-log-maxsize=100", "--audit-log-maxbackup=1",
		// Some clusters let only those make a dependent that holds up the deletion
		// of its owner who may write the owner's finalizers.
		"--enable-admission-plugins=OwnerReferencesPermissionEnforcement",
	}, nil
}

// AuditFile is the record of all requests of our programs: one JSON object of
// type audit.k8s.io/v1 Event a line.
func (e *Environment) AuditFile() string { return filepath.Join(e.Dir, "audit.jsonl") }

// Rights lists what the chart's service accounts may do, as the API server has it.
func (e *Environment) Rights(ctx context.Context) ([]rights.Right, error) {
	var clusterRoles rbacv1.ClusterRoleList
	var roles rbacv1.RoleList
	var clusterBindings rbacv1.ClusterRoleBindingList
	var bindings rbacv1.RoleBindingList
	for _, list := range []client.ObjectList{&clusterRoles, &roles, &clusterBindings, &bindings} {
		if err := e.client.List(ctx, list); err != nil {
			return nil, fmt.Errorf("list rights: %w", err)
		}
	}
	return rights.Roles{
		ClusterRoles: clusterRoles.Items, Roles: roles.Items,
		ClusterRoleBindings: clusterBindings.Items, RoleBindings: bindings.Items,
	}.Granted(chartNamespace)
}

// Requests reads what the chart's service accounts have asked the API server for.
func (e *Environment) Requests() (rights.Requests, error) {
	var out rights.Requests
	// Rotated parts have a time in their names.
	files, err := filepath.Glob(strings.TrimSuffix(e.AuditFile(), ".jsonl") + "*.jsonl")
	if err != nil || len(files) == 0 {
		return out, fmt.Errorf("find audit log: %d files, error %w", len(files), err)
	}
	for _, name := range files {
		file, err := os.Open(name)
		if err != nil {
			return out, fmt.Errorf("open audit log: %w", err)
		}
		err = out.Read(file)
		_ = file.Close()
		if err != nil {
			return out, err
		}
	}
	return out, nil
}
