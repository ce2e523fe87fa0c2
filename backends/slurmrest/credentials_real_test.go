package slurmrest_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmrest"
	"github.com/isthmus-hpc/isthmus/test/testbed/account"
	testbed "github.com/isthmus-hpc/isthmus/test/testbed/slurm"
)

// sign makes a token as anybody could who has a key.
func sign(t *testing.T, key []byte, alg string, claims map[string]any) string {
	t.Helper()
	body, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"alg":"`+alg+`","typ":"JWT"}`)) + "." + enc.EncodeToString(body)
	if alg == "none" {
		return text + "."
	}
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return text + "." + enc.EncodeToString(mac.Sum(nil))
}

// held is a token as it is, whoever asks: what a site with other claims, or an
// attacker, would make us send.
type held string

func (h held) Token(context.Context, string, time.Time) (slurmrest.Token, error) {
	return slurmrest.Token{Text: string(h), Origin: string(h)}, nil
}

// watched is a proxy that counts requests.
func watched(t *testing.T, c *testbed.Cluster) (string, *atomic.Int64) {
	t.Helper()
	to, err := url.Parse(c.RESTAddress())
	if err != nil {
		t.Fatal(err)
	}
	n := new(atomic.Int64)
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(to) }}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		proxy.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, n
}

// TestBadTokens sends real slurmrestd what it must not take: nothing is done,
// the kind is Denied, and it is not asked again.
func TestBadTokens(t *testing.T) {
	t.Parallel()
	c := realCluster(t, false)
	key, err := os.ReadFile(c.TokenKeyFile())
	if err != nil {
		t.Fatal(err)
	}
	good := siteOn(t, newReal(t, c, c.RESTAddress()))
	ref := good.submit(good.spec("suite", "exit 0", oneTask))

	now := time.Now().Unix()
	claims := func(sun string, iat, exp int64) map[string]any {
		return map[string]any{"sun": sun, "iat": iat, "exp": exp}
	}
	other := []byte(strings.Repeat("x", 32))
	replayed := sign(t, key, "HS256", claims(account.Alice, now-7200, now-3600))
	for what, token := range map[string]string{
		"expired":                replayed,
		"expired a moment ago":   sign(t, key, "HS256", claims(account.Alice, now-60, now-1)),
		"of another user":        sign(t, key, "HS256", claims(account.Bob, now, now+600)),
		"signed by somebody":     sign(t, other, "HS256", claims(account.Alice, now, now+600)),
		"not signed":             sign(t, nil, "none", claims(account.Alice, now, now+600)),
		"with another user's":    swapClaims(sign(t, key, "HS256", claims(account.Bob, now, now+600)), sign(t, other, "HS256", claims(account.Alice, now, now+600))),
		"with a signature cut":   replayed[:len(replayed)-5],
		"without a user":         sign(t, key, "HS256", map[string]any{"iat": now, "exp": now + 600}),
		"of a number":            sign(t, key, "HS256", map[string]any{"sun": 0, "iat": now, "exp": now + 600}),
		"of nobody":              sign(t, key, "HS256", claims("isthmus-nobody-here", now, now+600)),
		"no token at all":        "hello",
		"without an expiry date": sign(t, key, "HS256", map[string]any{"sun": account.Alice, "iat": now}),
	} {
		t.Run(what, func(t *testing.T) {
			at, asked := watched(t, c)
			b, err := slurmrest.New(slurmrest.Config{URL: at, Tokens: held(token), Users: []string{account.Alice}})
			if err != nil {
				t.Fatal(err)
			}
			spec := good.spec("suite", "exit 0", oneTask)
			first := true
			for op, call := range map[string]func() error{
				"submit":    func() error { _, err := b.Submit(t.Context(), spec); return err },
				"release":   func() error { return b.Release(t.Context(), ref) },
				"cancel":    func() error { return b.Cancel(t.Context(), ref) },
				"observe":   func() error { _, err := b.Observe(t.Context(), good.owner, []string{account.Alice}); return err },
				"inventory": func() error { _, err := b.Inventory(t.Context()); return err },
			} {
				before := asked.Load()
				err := call()
				var e *backends.Error
				if !errors.As(err, &e) || e.Kind != backends.KindDenied || e.Op != op {
					t.Errorf("%s: %v, want Denied", op, err)
				}
				if err != nil && strings.Contains(err.Error(), token) {
					t.Errorf("%s: the error shows the token", op)
				}
				if n := asked.Load() - before; !first && n != 0 {
					t.Errorf("%s: %d requests after the token had been refused", op, n)
				}
				first = false
			}
		})
	}
	// Nothing of it had an effect.
	o, err := good.Observe(t.Context(), good.owner, []string{account.Alice})
	if err != nil || len(o.Jobs) != 1 || o.Jobs[0].ID != ref.ID || !o.Jobs[0].Held {
		t.Errorf("afterwards: %+v, %v", o, err)
	}
}

// swapClaims puts the claims of one token into another.
func swapClaims(into, from string) string {
	a, b := strings.Split(into, "."), strings.Split(from, ".")
	return strings.Join([]string{a[0], b[1], a[2]}, ".")
}

// TestOthersJobs: a user's good token does nothing to another's jobs, and does
// not count as refused.
func TestOthersJobs(t *testing.T) {
	t.Parallel()
	c := realCluster(t, false)
	s := siteOn(t, newReal(t, c, c.RESTSocket()))
	ref := s.submit(s.spec("suite", "exit 0", oneTask))
	theirs := ref
	theirs.User = account.Bob
	for range 2 {
		if err := s.Cancel(t.Context(), theirs); backends.KindOf(err) != backends.KindDenied {
			t.Errorf("cancel of another user's job: %v, want Denied", err)
		}
		if err := s.Release(t.Context(), theirs); backends.KindOf(err) != backends.KindDenied {
			t.Errorf("release of another user's job: %v, want Denied", err)
		}
	}
	o, err := s.Observe(t.Context(), s.owner, []string{account.Bob, account.Alice})
	if err != nil || len(o.Jobs) != 1 || !o.Jobs[0].Held || !o.Complete {
		t.Errorf("afterwards: %+v, %v", o, err)
	}
	// An administrator's hold is not the user's to undo.
	if _, err := c.Run(t.Context(), "scontrol", "release", string(ref.ID)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Run(t.Context(), "scontrol", "hold", string(ref.ID)); err != nil {
		t.Fatal(err)
	}
	if err := s.Release(t.Context(), ref); backends.KindOf(err) != backends.KindDenied {
		t.Errorf("release of what an administrator holds: %v, want Denied", err)
	}
}

// TestPrivateData: where Slurm hides other users' jobs, each user is asked, and
// a user who cannot be asked makes the list incomplete.
func TestPrivateData(t *testing.T) {
	t.Parallel()
	realCluster(t, false) // the same reasons to skip, and the packages
	c, err := startCluster(t.Context(), false, "PrivateData=jobs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	s := siteOn(t, newReal(t, c, c.RESTSocket()))
	mine := s.submit(s.spec("suite", "exit 0", oneTask))
	spec := s.spec("suite", "exit 0", oneTask)
	spec.User = account.Bob
	theirs := s.submit(spec)
	o, err := s.Observe(t.Context(), s.owner, []string{account.Alice, account.Bob})
	if err != nil || len(o.Jobs) != 2 || !o.Complete {
		t.Errorf("both users: %+v, %v; want jobs %s and %s", o, err, mine.ID, theirs.ID)
	}
	b, err := slurmrest.New(slurmrest.Config{URL: c.RESTSocket(), Tokens: only{minted(t, c), account.Alice}})
	if err != nil {
		t.Fatal(err)
	}
	o, err = b.Observe(t.Context(), s.owner, []string{account.Alice, account.Bob})
	if err != nil || len(o.Jobs) != 1 || o.Jobs[0].ID != mine.ID || o.Complete {
		t.Errorf("with a token of one user only: %+v, %v", o, err)
	}
}

// only has tokens for one user.
type only struct {
	slurmrest.Tokens
	user string
}

func (o only) Token(ctx context.Context, user string, now time.Time) (slurmrest.Token, error) {
	if user != o.user {
		return slurmrest.Token{}, errors.New("there is no token of user " + user)
	}
	return o.Tokens.Token(ctx, user, now)
}

// TestOutage: without slurmrestd nothing was done; without a controller behind
// it the outcome is open.
func TestOutage(t *testing.T) {
	t.Parallel()
	realCluster(t, false)
	c, err := startCluster(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Stop(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	b := newReal(t, c, c.RESTSocket())
	s := siteOn(t, b)
	job := s.submit(s.spec("suite", "exit 0", oneTask))
	if err := c.KillREST(); err != nil {
		t.Fatal(err)
	}
	// First what only reads: a connection that is kept may be found broken as a request is
	// sent, and the outcome of a submission would be open then.
	_, observe := b.Observe(t.Context(), s.owner, []string{account.Alice})
	_, inventory := b.Inventory(t.Context())
	_, submit := b.Submit(t.Context(), s.spec("suite", "exit 0", oneTask))
	for op, err := range map[string]error{
		"submit": submit, "observe": observe, "inventory": inventory,
		"release": b.Release(t.Context(), job), "cancel": b.Cancel(t.Context(), job),
	} {
		var e *backends.Error
		if !errors.As(err, &e) || e.Kind != backends.KindTransient || e.Op != op {
			t.Errorf("%s without slurmrestd: %v, want Transient", op, err)
		}
	}
	if err := c.StartREST(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := c.StopController(); err != nil {
		t.Fatal(err)
	}
	// The first effect of all leaves its outcome open; those after it ask
	// something harmless first, get no answer, and are not sent.
	if _, err := b.Submit(t.Context(), s.spec("suite", "exit 0", oneTask)); backends.KindOf(err) != backends.KindUnknownOutcome {
		t.Errorf("submit without a controller: %v, want UnknownOutcome", err)
	}
	// Slow: slurmrestd tries for 9 s each time.
	if err := b.Cancel(t.Context(), job); backends.KindOf(err) != backends.KindTransient {
		t.Errorf("cancel after an open outcome: %v, want Transient", err)
	}
	if err := c.StartController(t.Context()); err != nil {
		t.Fatal(err)
	}
	o, err := b.Observe(t.Context(), s.owner, []string{account.Alice})
	if err != nil || len(o.Jobs) != 1 || o.Jobs[0].ID != job.ID || !o.Jobs[0].Held {
		t.Errorf("after the outage: %+v, %v", o, err)
	}
}
