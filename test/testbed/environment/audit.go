package environment

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
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
	}, nil
}

// AuditFile is the record of all requests of our programs: one JSON object of
// type audit.k8s.io/v1 Event a line.
func (e *Environment) AuditFile() string { return filepath.Join(e.Dir, "audit.jsonl") }
