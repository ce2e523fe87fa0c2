// Package e2e tests what users do and see, on a real control plane and a real
// Slurm: every test acts through kubectl or the batch system's own commands.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// shared is the environment of all tests that do not start one of their own.
var shared *environment.Environment

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("ISTHMUS_E2E") == "off" {
		fmt.Println("SKIP: end-to-end tests, because ISTHMUS_E2E=off")
		return 0
	}
	ctx, cancel := context.WithTimeout(context.Background(), 25*time.Minute)
	defer cancel()
	// Tests with an environment of their own mostly wait; those that share one are not parallel.
	if err := flag.Set("test.parallel", "3"); err != nil {
		fmt.Println("e2e:", err)
	}
	return environment.Main(ctx, "e2e", environment.Config{
		Progress: os.Stdout, REST: os.Getenv("ISTHMUS_E2E_BATCH") == "",
		Batch:   os.Getenv("ISTHMUS_E2E_BATCH"), // "pbs" with -run TestPBS saves the time for real Slurm
		Cluster: tune,
	}, m, &shared)
}

// tune makes a BatchCluster quick, and lets a namespace name its user by a label;
// default stays Alice's.
func tune(c *hpcv1alpha1.BatchCluster) {
	c.Spec.Poll.Tick = &metav1.Duration{Duration: 2 * time.Second}
	c.Spec.Poll.Idle = &metav1.Duration{Duration: 5 * time.Second}
	c.Spec.Accounts = append(c.Spec.Accounts, hpcv1alpha1.Account{
		NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"test-user": account.Alice, "test-tokens": "yes"}},
		User:              account.Alice, ServiceAccountTokens: true, AllowEnv: []string{"LD_LIBRARY_PATH"},
	})
	c.Spec.VolumeClasses = []hpcv1alpha1.VolumeClass{{StorageClassName: "hpc", Path: filepath.Join(os.TempDir(), "isthmus-e2e-claims", "{user}", "{namespace}-{claim}")}}
	for _, user := range []string{account.Alice, account.Bob} {
		c.Spec.Accounts = append(c.Spec.Accounts, hpcv1alpha1.Account{
			NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"test-user": user}}, User: user,
		})
	}
}
