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

	"github.com/google/go-containerregistry/pkg/v1/layout"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/environment"
	"github.com/isthmus-hpc/isthmus/test/testbed/image"
	"github.com/isthmus-hpc/isthmus/test/testbed/kubelet"
	"github.com/isthmus-hpc/isthmus/test/testbed/runtimes"
)

var (
	rewrite  = flag.Bool("rewrite", false, "write the user guide's table")
	only     = flag.String("cases", "", "run only the cases that this regular expression matches")
	together = flag.Int("together", 12, "how many cases run at once")
	which    = flag.String("column", "", "compare only this column with the kubelet")
)

const (
	realNode   = "realnode"
	hostImage  = "isthmus.test/host:1"
	tableFile  = "differences.yaml"
	imagesFile = "differences-images.yaml"
	userLabel  = "test-user"
)

// The user guide says what the tables say.
func TestGuide(t *testing.T) {
	file, err := guideFile()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	want := string(raw)
	for _, part := range guideParts {
		table, err := loadTable(part.file)
		if err != nil {
			t.Fatal(err)
		}
		if want, err = part.guide(want, table); err != nil {
			t.Fatal(err)
		}
	}
	if want == string(raw) {
		return
	}
	if !*rewrite {
		t.Fatalf("%s differs from the tables; run: go test ./test/parity -run TestGuide -rewrite", file)
	}
	if err := os.WriteFile(file, []byte(want), 0o644); err != nil { //nolint:gosec // it is a document
		t.Fatal(err)
	}
}

// mostAgain bounds the cases that are looked at twice: more of them have a cause.
const mostAgain = 5

// TestParity: every case does the same on all nodes, but for what is listed.
func TestParity(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIP: a real kubelet and a real Slurm need root")
	}
	if os.Getenv("ISTHMUS_E2E") == "off" {
		t.Skip("SKIP: because ISTHMUS_E2E=off")
	}
	ctx, cancel := context.WithTimeout(t.Context(), wholeLimit())
	defer cancel()
	if err := runtimes.EnsureInstalled(ctx, t.Output()); err != nil {
		t.Fatal(err)
	}
	registry := imagetest.NewRegistry(t, false, "", "")
	env := start(ctx, t, registry.Host)
	witness := witnessFile(t)
	prepareImage(ctx, t, env, witness, registry)
	cases, err := load("testdata", hostImage, witness)
	if err != nil {
		t.Fatal(err)
	}
	if *only != "" {
		chosen := regexp.MustCompile(*only)
		cases = slices.DeleteFunc(cases, func(c testCase) bool { return !chosen.MatchString(c.name) })
	}
	columns := slices.DeleteFunc(columns(), func(c column) bool { return !c.wanted() })
	config := env.RESTConfig()
	config.QPS = -1 // watches and logs of many pods
	kube, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range columns {
		makeNamespace(ctx, t, kube, c.namespace)
	}
	results := runAll(ctx, t.Output(), env, kube, columns, cases, witness)

	listed := map[string]listing{}
	for _, c := range columns {
		if c.table == "" {
			continue
		}
		table, err := loadTable(c.table)
		if err != nil {
			t.Fatal(err)
		}
		listed[c.name] = newListing(c.table, table)
	}
	// What depends on the moment is looked at once more, by itself: a difference
	// that is there twice is one.
	unsteady := slices.DeleteFunc(slices.Clone(cases), func(c testCase) bool {
		got := results[c.name]
		for i, col := range columns {
			if !col.runs(c.name) {
				continue
			}
			if got[i].err != nil || col.table != "" && len(listed[col.name].unlisted(compare(c.name, got[0].seen, got[i].seen))) > 0 {
				return false
			}
		}
		return true
	})
	if len(unsteady) > 0 && len(unsteady) <= mostAgain {
		for i := range columns {
			columns[i].namespace += "-again"
			makeNamespace(ctx, t, kube, columns[i].namespace)
		}
		for name, got := range runAll(ctx, t.Output(), env, kube, columns, unsteady, witness) {
			t.Logf("%s was looked at twice", name)
			results[name] = got
		}
	}
	for i, col := range columns {
		if col.table != "" {
			run := slices.DeleteFunc(slices.Clone(cases), func(c testCase) bool { return !col.runs(c.name) })
			t.Run(col.name, func(t *testing.T) { judge(t, run, results, i, listed[col.name]) })
		}
	}
	t.Run("images of the chart", func(t *testing.T) { chartImages(ctx, t, env, kube) })
}

// columns are the kubelet and those that are compared with it.
func columns() []column {
	virtual := func(runtime string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.SchedulerName = "volcano"
			p.Spec.NodeSelector = map[string]string{"isthmus.sh/partition": "a100"}
			p.Annotations = maps.Clone(p.Annotations)
			if p.Annotations == nil {
				p.Annotations = map[string]string{}
			}
			p.Annotations[wellknown.Runtime] = runtime
		}
	}
	return []column{
		{"kubelet", "parity-kubelet", func(p *corev1.Pod) { p.Spec.NodeName = realNode }, ""},
		{"bridge", "parity-bridge", virtual("host"), tableFile},
		{"charliecloud", "parity-charliecloud", virtual("charliecloud"), imagesFile},
	}
}

// wholeLimit bounds the run. A column with images runs after the one before it, which
// with all cases takes as long again and more.
func wholeLimit() time.Duration {
	if all() {
		return 35 * time.Minute
	}
	return 12 * time.Minute
}

// all reports whether all cases run with images, too.
func all() bool { return os.Getenv("ISTHMUS_PARITY") == "all" }

// wanted reports whether a column is compared with the kubelet.
func (c column) wanted() bool { return c.table == "" || *which == "" || c.name == *which }

// runs reports whether a case is run in a column. Images cost time, so that
// `make test-long` alone runs all cases with them, by ISTHMUS_PARITY=all.
func (c column) runs(name string) bool {
	return c.table != imagesFile || *only != "" || all() || slices.Contains(sampled(), name)
}

// sampled are the cases that are always run with images: what depends most on the
// runtime, and is fast.
func sampled() []string {
	return strings.Fields(`args-special command-not-found env-fields env-whole exec exit-code identity image-command init-visible
		log-streams probe-exec refused-user signal-term working-dir-default`)
}

// judge compares one column with the kubelet, case by case.
func judge(t *testing.T, cases []testCase, results map[string][]outcome, i int, listed listing) {
	for _, c := range cases {
		got := results[c.name]
		t.Run(c.name, func(t *testing.T) {
			for _, r := range []outcome{got[0], got[i]} {
				if r.err != nil {
					t.Fatalf("on the %s: %v", r.on, r.err)
				}
			}
			if unlisted := listed.unlisted(compare(c.name, got[0].seen, got[i].seen)); len(unlisted) > 0 {
				raw, err := yaml.Marshal(unlisted)
				if err != nil {
					t.Fatal(err)
				}
				t.Errorf("differences that are not in %s, or are there with other values:\n%s", listed.file, raw)
			}
			for _, key := range listed.unused(c.name) {
				t.Errorf("%s lists a difference that is not there: %s", listed.file, key)
			}
		})
	}
	if *only != "" {
		return
	}
	for _, key := range listed.unused(anyCase) {
		t.Errorf("%s lists a difference that is not there: %s", listed.file, key)
	}
	t.Logf("%d cases, %d listed differences", len(cases), len(listed.by))
}

// start gives an environment with a real node, which ends with the test.
func start(ctx context.Context, t *testing.T, registry string) *environment.Environment {
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
			c.Spec.Runtimes = append(c.Spec.Runtimes, hpcv1alpha1.RuntimeCharliecloud)
			c.Spec.Images.Mirrors = []hpcv1alpha1.ImageMirror{{Registry: "isthmus.test", Endpoint: registry}}
			c.Spec.Images.Insecure = []string{registry}
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

// witnessFile is where the program is that both columns find under the same path. It
// is not in a temporary directory, since containers have a /tmp of their own.
func witnessFile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/var/lib", "isthmus-parity-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { //nolint:gosec // the mapped user runs the program
		t.Fatal(err)
	}
	return filepath.Join(dir, "witness")
}

// prepareImage makes the image whose user land is this machine's, and the
// program that both columns find under the same path.
func prepareImage(ctx context.Context, t *testing.T, env *environment.Environment, witness string, registry *imagetest.Registry) {
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
	push(t, registry, archive, strings.TrimPrefix(hostImage, "isthmus.test/"))
}

// push puts the image of that tag from the archive into the registry.
func push(t *testing.T, registry *imagetest.Registry, archive, repository string) {
	t.Helper()
	dir := t.TempDir()
	if out, err := osexec.CommandContext(t.Context(), "tar", "-C", dir, "-xf", archive).CombinedOutput(); err != nil {
		t.Fatalf("unpack the image: %v\n%s", err, out)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	list, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Manifests {
		if m.Annotations["io.containerd.image.name"] != hostImage {
			continue
		}
		img, err := index.Image(m.Digest)
		if err != nil {
			t.Fatal(err)
		}
		registry.Push(t, repository, img)
		return
	}
	t.Fatalf("the archive has no image %s", hostImage)
}

// userLand are the programs of Debian's essential packages that cases use.
func userLand() []string {
	return strings.Fields(`sh dash cat ls env sort id sleep stat touch mkdir rmdir ln rm head tail wc od printf date test seq kill
		mktemp readlink dirname basename pwd uname tr cut uniq chmod cp mv dd true false yes base64 tee grep sed find ps hostname
		df nproc timeout sha256sum expr echo`)
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
	on   string // the column
	seen observation
	err  error
	took time.Duration
}

// runAll runs all cases in all columns, a bounded number at once, and removes
// their pods. It tells progress how long each took, and gives the outcomes by case in the order of the columns.
func runAll(ctx context.Context, progress io.Writer, env *environment.Environment, kube kubernetes.Interface, columns []column, cases []testCase, witness string) map[string][]outcome {
	names := map[string]string{witness: "witness", hostName(): "machine"}
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
		one := func(i int) {
			col := columns[i]
			r := &run{column: col, env: env, kube: kube, c: c, names: maps.Clone(names)}
			r.names[col.namespace] = "namespace"
			start := time.Now()
			err := r.do(ctx)
			if err == nil {
				err = r.remove(ctx)
			}
			results[c.name][i] = outcome{col.name, r.result, err, time.Since(start)}
		}
		both.Go(func() { one(0) })
		both.Go(func() {
			// In turn: pods on virtual nodes share the ports of their host.
			for i := 1; i < len(columns); i++ {
				if columns[i].runs(c.name) {
					one(i)
				}
			}
		})
		all.Go(func() {
			both.Wait()
			<-room
			fmt.Fprintf(progress, "  %6.1fs  %s", time.Since(began).Seconds(), c.name)
			for _, o := range results[c.name] {
				if o.on != "" {
					fmt.Fprintf(progress, " %.1fs", o.took.Seconds())
				}
			}
			fmt.Fprintln(progress)
		})
	}
	all.Wait()
	return results
}
