// Package parity runs the same pods on a real kubelet with containerd and
// through the bridge on a real Slurm, and compares all that a user sees.
//
// Every file of testdata is one case: a pod that uses one feature. What differs
// is listed in differences.yaml with its reason, from which the user guide's
// table is made. A difference that is not listed fails the test, and so does a
// listed one that is not there any more.
package parity

import (
	"context"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	osexec "os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/image"
	"github.com/isthmus-hpc/isthmus/test/testbed/kubelet"
)

var (
	rewrite  = flag.Bool("rewrite", false, "write the user guide's table")
	only     = flag.String("cases", "", "run only the cases that this regular expression matches")
	together = flag.Int("together", 12, "how many cases run at once")
)

const (
	realNode   = "realnode"
	hostImage  = "isthmus.test/host:1"
	tableFile  = "differences.yaml"
	userLabel  = "test-user"
	wholeLimit = 12 * time.Minute
)

// The user guide says what the table says.
func TestGuide(t *testing.T) {
	table, err := loadTable(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	file, err := guideFile()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want, err := guide(string(raw), table)
	if err != nil {
		t.Fatal(err)
	}
	if want == string(raw) {
		return
	}
	if !*rewrite {
		t.Fatalf("%s differs from %s; run: go test ./test/parity -run TestGuide -rewrite", file, tableFile)
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil { //nolint:gosec // it is a document
		t.Fatal(err)
	}
}

// mostAgain bounds the cases that are looked at twice: more of them have a cause.
const mostAgain = 5

// TestParity: every case does the same on both nodes, but for what is listed.
func TestParity(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: a real kubelet and a real Slurm need root")
	}
	if os.Getenv("ISTHMUS_E2E") == "off" {
		t.Skip("SKIP: because ISTHMUS_E2E=off")
	}
	ctx, cancel := context.WithTimeout(t.Context(), wholeLimit)
	defer cancel()
	env := start(ctx, t)
	witness := filepath.Join(env.Shared, "witness")
	prepareImage(ctx, t, env, witness)
	cases, err := load("testdata", hostImage, witness)
	if err != nil {
		t.Fatal(err)
	}
	table, err := loadTable(tableFile)
	if err != nil {
		t.Fatal(err)
	}
	if *only != "" {
		chosen := regexp.MustCompile(*only)
		cases = slices.DeleteFunc(cases, func(c testCase) bool { return !chosen.MatchString(c.name) })
	}
	columns := []column{
		{"kubelet", "parity-kubelet", func(s *corev1.PodSpec) { s.NodeName = realNode }},
		{"bridge", "parity-bridge", func(s *corev1.PodSpec) {
			s.SchedulerName = "volcano"
			s.NodeSelector = map[string]string{"isthmus.sh/partition": "a100"}
		}},
	}
	config := env.RESTConfig()
	config.QPS = -1 // watches and logs of many pods
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range columns {
		makeNamespace(ctx, t, kube, c.namespace)
	}
	results := runAll(ctx, t.Output(), env, kube, columns, cases)

	listed := map[string]difference{}
	used := map[string]bool{}
	for _, topic := range table {
		for _, d := range topic.Seen {
			listed[d.Case+" "+d.Field] = d
		}
	}
	// What depends on the moment is looked at once more, by itself: a difference
	// that is there twice is one.
	unsteady := slices.DeleteFunc(slices.Clone(cases), func(c testCase) bool {
		got := results[c.name]
		return got[0].err == nil && got[1].err == nil && !slices.ContainsFunc(compare(c.name, got[0].seen, got[1].seen), func(d difference) bool {
			_, everywhere := listed[anyCase+" "+d.Field]
			return !everywhere && listed[c.name+" "+d.Field] != d
		})
	})
	if len(unsteady) > 0 && len(unsteady) <= mostAgain {
		for i := range columns {
			columns[i].namespace += "-again"
			makeNamespace(ctx, t, kube, columns[i].namespace)
		}
		for name, got := range runAll(ctx, t.Output(), env, kube, columns, unsteady) {
			t.Logf("%s was looked at twice", name)
			results[name] = got
		}
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			got := results[c.name]
			for i, r := range got {
				if r.err != nil {
					t.Fatalf("on the %s: %v", columns[i].name, r.err)
				}
			}
			var unlisted []difference
			for _, d := range compare(c.name, got[0].seen, got[1].seen) {
				if _, ok := listed[anyCase+" "+d.Field]; ok {
					used[anyCase+" "+d.Field] = true
					continue
				}
				if l, ok := listed[c.name+" "+d.Field]; ok && l == d {
					used[c.name+" "+d.Field] = true
					continue
				}
				unlisted = append(unlisted, d)
			}
			if len(unlisted) > 0 {
				raw, err := yaml.Marshal(unlisted)
				if err != nil {
					t.Fatal(err)
				}
				t.Errorf("differences that are not in %s, or are there with other values:\n%s", tableFile, raw)
			}
			for key := range listed {
				if name, _, _ := strings.Cut(key, " "); name == c.name && !used[key] {
					t.Errorf("%s lists a difference that is not there: %s", tableFile, key)
				}
			}
		})
	}
	if *only != "" {
		return
	}
	for key := range listed {
		name, _, _ := strings.Cut(key, " ")
		if !used[key] && (name == anyCase || !slices.ContainsFunc(cases, func(c testCase) bool { return c.name == name })) {
			t.Errorf("%s lists a difference that is not there: %s", tableFile, key)
		}
	}
	t.Logf("%d cases, %d listed differences in %d topics", len(cases), len(listed), len(table))
}

// start gives an environment with a real node, which ends with the test.
func start(ctx context.Context, t *testing.T) *environment.Environment {
	t.Helper()
	dir, err := os.MkdirTemp("", "isthmus-parity-")
	if err != nil {
		t.Fatal(err)
	}
	env, err := environment.Start(ctx, environment.Config{
		Dir: filepath.Join(dir, "env"), Progress: t.Output(), Batch: environment.BatchSlurm, RealNode: realNode,
		Cluster: func(c *hpcv1alpha1.BatchCluster) {
			c.Spec.Accounts = append(c.Spec.Accounts, hpcv1alpha1.Account{
				NamespaceSelector: metav1.LabelSelector{MatchLabels: map[string]string{userLabel: account.Alice}}, User: account.Alice,
				ServiceAccountTokens: true,
			})
			c.Spec.HostPaths = []string{"/usr/share/common-licenses"}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := env.Stop(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("logs are kept in %s", env.Dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return env
}

// prepareImage makes the image whose user land is this machine's, and the
// program that both columns find under the same path.
func prepareImage(ctx context.Context, t *testing.T, env *environment.Environment, witness string) {
	t.Helper()
	root, err := checkout.Root()
	if err != nil {
		t.Fatal(err)
	}
	build := osexec.CommandContext(ctx, "go", "build", "-trimpath", "-o", witness, "./test/parity/witness")
	build.Dir, build.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build witness: %v\n%s", err, out)
	}
	if err := os.Chmod(witness, 0o755); err != nil { //nolint:gosec // the mapped user runs it
		t.Fatal(err)
	}
	u, err := user.Lookup(account.Alice)
	if err != nil {
		t.Fatal(err)
	}
	tree := image.NewTree()
	if err := tree.CopyPrograms(ctx, userLand()...); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{witness, "/etc/passwd", "/etc/group"} {
		if err := tree.Copy(file); err != nil {
			t.Fatal(err)
		}
	}
	archive := filepath.Join(env.Dir, "images.tar")
	if err := image.WriteArchive(archive,
		image.Image{Name: kubelet.PauseImage, Tree: tree, Entrypoint: []string{"/bin/sleep", "infinity"}},
		image.Image{Name: hostImage, Tree: tree, User: u.Uid + ":" + u.Gid, Entrypoint: []string{"/bin/echo", "the image says"},
			Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}},
	); err != nil {
		t.Fatal(err)
	}
	if err := env.Kubelet().Import(ctx, archive); err != nil {
		t.Fatal(err)
	}
}

// userLand are the programs of Debian's essential packages that cases use.
func userLand() []string {
	return strings.Fields(`sh dash cat ls env sort id sleep stat touch mkdir rmdir ln rm head tail wc od printf date test seq kill
		mktemp readlink dirname basename pwd uname tr cut uniq chmod cp mv dd true false yes base64 tee grep sed find ps hostname
		df nproc timeout sha256sum expr`)
}

func makeNamespace(ctx context.Context, t *testing.T, kube kubernetes.Interface, name string) {
	t.Helper()
	ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{userLabel: account.Alice}}}
	if _, err := kube.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Pods cannot be made before their service account.
	for {
		_, err := kube.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		if err == nil {
			return
		}
		if !apierrors.IsNotFound(err) {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
			t.Fatal(ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// outcome of one case in one column.
type outcome struct {
	seen observation
	err  error
	took time.Duration
}

// runAll runs all cases in all columns, a bounded number at once, and removes
// their pods. It tells progress how long each took, and gives the outcomes by case in the order of the columns.
func runAll(ctx context.Context, progress io.Writer, env *environment.Environment, kube kubernetes.Interface, columns []column, cases []testCase) map[string][]outcome {
	names := map[string]string{filepath.Join(env.Shared, "witness"): "witness", hostName(): "machine"}
	if u, err := user.Lookup(account.Alice); err == nil {
		names[u.Uid] = "account's uid"
	}
	results := map[string][]outcome{}
	for _, c := range cases {
		results[c.name] = make([]outcome, len(columns))
	}
	room := make(chan struct{}, *together)
	var all sync.WaitGroup
	began := time.Now()
	for _, c := range cases {
		room <- struct{}{}
		var both sync.WaitGroup
		for i, col := range columns {
			both.Go(func() {
				r := &run{column: col, env: env, kube: kube, c: c, names: maps.Clone(names)}
				r.names[col.namespace] = "namespace"
				start := time.Now()
				err := r.do(ctx)
				if err == nil {
					err = r.remove(ctx)
				}
				results[c.name][i] = outcome{r.result, err, time.Since(start)}
			})
		}
		all.Go(func() {
			both.Wait()
			<-room
			fmt.Fprintf(progress, "  %6.1fs  %s (%.1fs, %.1fs)\n", time.Since(began).Seconds(), c.name,
				results[c.name][0].took.Seconds(), results[c.name][1].took.Seconds())
		})
	}
	all.Wait()
	return results
}
