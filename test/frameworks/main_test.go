// Package frameworks runs real software of data science on virtual nodes of a
// real Slurm, by the job plugins that are there for it: each test applies an
// example as a scientist would and checks the answer that the software computes.
//
// The software is large, so `make test-frameworks` alone runs this.
package frameworks

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
)

// env is the environment that all tests of the package share.
var env *environment.Environment

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if os.Getenv("ISTHMUS_FRAMEWORKS") == "" {
		fmt.Println("SKIP: tests with real frameworks, which are large: make test-frameworks runs them")
		return 0
	}
	if os.Geteuid() != 0 {
		fmt.Println("frameworks: this needs root, since the hosts of its Slurm have networks of their own")
		return 1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Hour)
	defer cancel()
	if err := account.EnsureCarol(ctx, os.Stdout); err != nil {
		fmt.Println("frameworks:", err)
		return 1
	}
	return environment.Main(ctx, "frameworks", environment.Config{
		Progress: os.Stdout, Batch: environment.BatchSlurm, Networks: true, Cluster: tune,
	}, m, &env)
}

// tune maps the namespaces of the tests to a user who has a home and a shell.
func tune(c *hpcv1alpha1.BatchCluster) {
	c.Spec.Poll.Tick = &metav1.Duration{Duration: 2 * time.Second}
	c.Spec.Accounts = append(c.Spec.Accounts, hpcv1alpha1.Account{
		NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{"test-user": account.Carol}}, User: account.Carol,
		ServiceAccountTokens: true, // Argo's executor asks the API server
	})
}
