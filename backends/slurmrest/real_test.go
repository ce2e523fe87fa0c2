package slurmrest_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/backendtest"
	"github.com/isthmus-hpc/isthmus/backends/slurmrest"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/backends/transport/local"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// clusters are those of all tests of the package, by whether they keep books;
// each is started by the first test that wants it.
var clusters struct {
	sync.Mutex
	running map[bool]*testbed.Cluster
	failed  map[bool]error
}

func TestMain(m *testing.M) {
	flag.Parse()
	clusters.running, clusters.failed = map[bool]*testbed.Cluster{}, map[bool]error{}
	code := m.Run()
	for _, c := range clusters.running {
		if err := c.Stop(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// realCluster gives the cluster with slurmrestd, and with slurmdbd when books.
func realCluster(t *testing.T, books bool) *testbed.Cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("not root: a real Slurm cluster starts jobs as their users")
	}
	if testing.Short() {
		t.Skip("-short: this test runs a real Slurm cluster")
	}
	clusters.Lock()
	defer clusters.Unlock()
	if clusters.running[books] == nil && clusters.failed[books] == nil {
		// Not t.Context: the cluster outlives the test that starts it.
		var extra []string
		if books {
			extra = []string{"MinJobAge=10"}
		}
		c, err := startCluster(context.WithoutCancel(t.Context()), books, extra...)
		if err != nil {
			clusters.failed[books] = err
		} else {
			clusters.running[books] = c
		}
	}
	if err := clusters.failed[books]; err != nil {
		if missing := (*debian.MissingError)(nil); errors.As(err, &missing) {
			t.Skipf("slurmrestd or the accounting database cannot be installed: %v", err)
		}
		t.Fatal(err)
	}
	return clusters.running[books]
}

func startCluster(ctx context.Context, books bool, extra ...string) (*testbed.Cluster, error) {
	if err := testbed.EnsureRESTInstalled(ctx, os.Stderr); err != nil {
		return nil, err
	}
	if books {
		if err := testbed.EnsureAccountingInstalled(ctx, os.Stderr); err != nil {
			return nil, err
		}
	}
	if err := account.Ensure(ctx, os.Stderr); err != nil {
		return nil, err
	}
	c, err := testbed.Start(ctx, testbed.Config{
		Name: "rest", REST: true, Accounting: books,
		Hosts: []testbed.Hosts{
			{Prefix: "n", Count: 2, CPUs: 4, MemoryMiB: 4000},
			{Prefix: "gpu", Count: 2, CPUs: 16, MemoryMiB: 16000, GPUType: "a100", GPUs: 4, Features: []string{"nvlink", "ib"}},
		},
		Partitions: []testbed.Partition{
			{Name: "suite", Hosts: []string{"n1", "n2"}, Default: true},
			{Name: "gpu", Hosts: []string{"gpu[1-2]"}, MaxTime: "2-00:00:00", Extra: "DefaultTime=30"},
		},
		Licenses: map[string]int{"suite": 2},
		Extra:    append([]string{"EnforcePartLimits=NO"}, extra...),
	})
	if err != nil {
		return nil, err
	}
	// As on any cluster, somebody else has jobs, too.
	res, err := local.New().Run(ctx, transport.Command{
		User: account.Bob, Env: c.Env(),
		Argv: []string{"sbatch", "--hold", "--chdir=/tmp", "--output=/dev/null", "--partition=gpu", "--comment=of somebody else", "--wrap=exit 0"},
	})
	if err == nil && res.Exit != 0 {
		err = fmt.Errorf("submit a foreign job: %s", res.Stderr)
	}
	if err != nil {
		return nil, errors.Join(err, c.Stop(ctx))
	}
	return c, nil
}

// minted gives tokens for a cluster's users.
func minted(t *testing.T, c *testbed.Cluster) slurmrest.Tokens {
	t.Helper()
	tokens, err := slurmrest.Minted(slurmrest.FileReader(c.TokenKeyFile()), 0)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func newReal(t *testing.T, c *testbed.Cluster, url string) *slurmrest.Backend {
	t.Helper()
	b, err := slurmrest.New(slurmrest.Config{URL: url, Tokens: minted(t, c), Users: []string{account.Alice}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// counter is a proxy in front of slurmrestd that counts lists of jobs.
func counter(t *testing.T, c *testbed.Cluster) (at string, lists *atomic.Int64) {
	t.Helper()
	lists = new(atomic.Int64)
	to, err := url.Parse(c.RESTAddress())
	if err != nil {
		t.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(strings.TrimSuffix(r.URL.Path, "/"), "/jobs") {
			lists.Add(1)
		}
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, lists
}

// hasHistory looks at the inventory until it is known whether there is a database:
// one that has just started may not answer at once.
func hasHistory(t *testing.T, b backends.Backend, want bool) {
	t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); ; <-time.After(100 * time.Millisecond) {
		if _, err := b.Inventory(t.Context()); err != nil {
			t.Fatal(err)
		}
		if b.Capabilities().History == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("history %t, want %t", !want, want)
		}
	}
}

// conform runs the suite over the URL that at gives.
func conform(t *testing.T, c *testbed.Cluster, books bool, at string, queries func() int) {
	b := newReal(t, c, at)
	hasHistory(t, b, books)
	n := 0
	backendtest.Run(t, func(t *testing.T) backendtest.Harness {
		n++
		d := backendtest.DiskOf(t, account.Alice)
		return backendtest.Harness{
			Backend: b, Owner: fmt.Sprintf("suite-%d-x", n), OtherOwner: fmt.Sprintf("suite-%d-y", n),
			User: account.Alice, Users: []string{account.Alice, account.Bob},
			Partition: "suite", Slots: 8, MemoryMiB: 100,
			Place: d.Place, Trace: d.Trace, Log: d.Log,
			Interval: 100 * time.Millisecond, Rounds: 600,
			Singleton: true, Queries: queries, License: "suite",
			Reopen: func(t *testing.T) backends.Backend { return newReal(t, c, at) },
		}
	})
}

// TestConformance goes through a loopback port (and a proxy that counts).
func TestConformance(t *testing.T) {
	t.Parallel()
	c := realCluster(t, false)
	at, lists := counter(t, c)
	conform(t, c, false, at, func() int { return int(lists.Load()) })
}

// TestConformanceWithAccounting goes through the Unix socket of a cluster that
// keeps books, and whose controller forgets ended jobs while the suite still asks
// for them.
func TestConformanceWithAccounting(t *testing.T) {
	t.Parallel()
	c := realCluster(t, true)
	conform(t, c, true, c.RESTSocket(), nil)
}
