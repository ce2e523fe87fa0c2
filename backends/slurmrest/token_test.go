package slurmrest_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/slurmrest"
)

func claimsOf(t *testing.T, token string) (claims struct {
	Sun      string
	Iat, Exp int64
}) {
	t.Helper()
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		t.Fatalf("%q is no token", token)
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &claims); err != nil {
		t.Fatal(err)
	}
	return claims
}

func TestMintedTokens(t *testing.T) {
	key := []byte(strings.Repeat("k", 32))
	reads := 0
	tokens, err := slurmrest.Minted(func(context.Context, string) ([]byte, error) { reads++; return key, nil }, 10*time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	token := func(user string, now int64) string {
		t.Helper()
		got, err := tokens.Token(t.Context(), user, at(now))
		if err != nil {
			t.Fatal(err)
		}
		return got.Text
	}
	first := token("alice", 1000)
	if c := claimsOf(t, first); c.Sun != "alice" || c.Iat != 1000 || c.Exp != 1600 {
		t.Errorf("claims %+v", c)
	}
	// As RFC 7519 has it; real slurmrestd takes such tokens in the other tests.
	text, signature, _ := strings.Cut(first[strings.Index(first, ".")+1:], ".")
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(first[:strings.Index(first, ".")+1] + text))
	if want := base64.RawURLEncoding.EncodeToString(mac.Sum(nil)); signature != want {
		t.Errorf("signature %s, want %s", signature, want)
	}
	if token("alice", 1299) != first || reads != 1 {
		t.Error("made anew before half of its life")
	}
	second := token("alice", 1300)
	if c := claimsOf(t, second); c.Exp != 1900 {
		t.Errorf("at half of its life: %+v", c)
	}
	if token("bob", 1300) == second {
		t.Error("two users have one token")
	}
	if c := claimsOf(t, token("alice", 500)); c.Exp != 1100 {
		t.Errorf("after the clock was set back: %+v", c)
	}
	for _, user := range []string{"root", "slurm", "", "0", "../x", "a/b", "a b"} {
		if got, err := tokens.Token(t.Context(), user, at(1000)); err == nil {
			t.Errorf("a token for %q: %+v", user, got)
		}
	}
	for _, lifetime := range []time.Duration{time.Second, time.Hour + 1, -1} {
		if _, err := slurmrest.Minted(nil, lifetime); err == nil || !strings.HasPrefix(err.Error(), "tokenLifetime: ") {
			t.Errorf("lifetime %v: %v", lifetime, err)
		}
	}
	key = []byte("short")
	if _, err := tokens.Token(t.Context(), "carol", at(1000)); err == nil || strings.Contains(err.Error(), "short") {
		t.Errorf("a short key: %v", err)
	}
}

func TestGivenTokens(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Unix(1000, 0)
	of := func(sun string, exp int64) string {
		return sign(t, []byte(strings.Repeat("k", 32)), "HS256", map[string]any{"sun": sun, "exp": exp})
	}
	write("alice", of("alice", 2000)+"\n")
	write("bob", "SLURM_JWT="+of("bob", 2000))
	write("carol", of("carol", 999))
	write("dave", of("alice", 2000))
	write("erin", of("root", 2000))
	write("frank", "two words")
	write("opaque", "abc")
	write("large", strings.Repeat("x", 100_000))
	all := slurmrest.Given(slurmrest.FileReader(dir))
	for user, want := range map[string]string{
		"alice": "", "bob": "", "opaque": "", "carol": "expired", "dave": "of user alice", "erin": "everybody", "frank": "one word", "large": "larger",
		"nobody": "no such file", "root": "root", "..": "..",
	} {
		got, err := all.Token(t.Context(), user, now)
		switch {
		case want == "" && (err != nil || got.Text == "" || strings.ContainsAny(got.Text, "=\n")):
			t.Errorf("%s: %+v, %v", user, got, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %+v, %v; want an error with %q", user, got, err, want)
		}
	}
	one := slurmrest.Given(slurmrest.FileReader(filepath.Join(dir, "alice")))
	if _, err := one.Token(t.Context(), "alice", now); err != nil {
		t.Error(err)
	}
	if _, err := one.Token(t.Context(), "bob", now); err == nil {
		t.Error("one token for all serves a user it is not of")
	}
}

// tokenFile is a token that may be replaced, as files are.
type tokenFile struct{ text atomic.Pointer[string] }

func (f *tokenFile) Token(context.Context, string, time.Time) (slurmrest.Token, error) {
	return slurmrest.Token{Text: *f.text.Load(), Origin: *f.text.Load()}, nil
}

// A refused token is not shown again for a while, ever longer; a new one is
// tried at once.
func TestRefusedTokensAreNotRepeated(t *testing.T) {
	s := serve(t, func(a asked) (int, string) {
		if a.token == "good" {
			return recorded(t, "v0.0.42")(a)
		}
		return http.StatusUnauthorized, "Authentication failure"
	})
	now := time.Unix(1000, 0)
	tokens := &tokenFile{}
	use := func(text string) { tokens.text.Store(&text) }
	use("bad")
	b, err := slurmrest.New(slurmrest.Config{URL: s.URL, Tokens: tokens, Users: []string{"alice"}, Now: func() time.Time { return now }})
	if err != nil {
		t.Fatal(err)
	}
	try := func(want int, what string) {
		t.Helper()
		before := len(s.requests(""))
		_, err := b.Observe(t.Context(), "recorded", nil)
		if backends.KindOf(err) != backends.KindDenied {
			t.Errorf("%s: %v", what, err)
		}
		if got := len(s.requests("")) - before; got != want {
			t.Errorf("%s: %d requests, want %d", what, got, want)
		}
	}
	try(1, "first")
	for range 100 {
		try(0, "at once")
	}
	now = now.Add(29 * time.Second)
	try(0, "soon")
	now = now.Add(2 * time.Second)
	try(1, "after half a minute")
	now = now.Add(31 * time.Second)
	try(0, "the pause has grown")
	now = now.Add(30 * time.Second)
	try(1, "after a minute")
	now = now.Add(-time.Hour)
	try(1, "the clock was set back")
	use("bad too")
	try(1, "another token")
	use("good")
	if o, err := b.Observe(t.Context(), "recorded", nil); err != nil || len(o.Jobs) == 0 {
		t.Errorf("with a good token: %v", err)
	}
}

// A user whose token is refused does not keep the others from an answer.
func TestOneRefusedUser(t *testing.T) {
	s := serve(t, func(a asked) (int, string) {
		if a.user == "alice" {
			return http.StatusUnauthorized, "Authentication failure"
		}
		return recorded(t, "v0.0.42")(a)
	})
	b, err := slurmrest.New(slurmrest.Config{URL: s.URL, Tokens: fixed{}, Users: []string{"alice", "isthmus-bob"}})
	if err != nil {
		t.Fatal(err)
	}
	o, err := b.Observe(t.Context(), "recorded", []string{"alice", "isthmus-bob"})
	if err != nil || len(o.Jobs) == 0 || !o.Complete {
		t.Errorf("observe: %d jobs, complete %t, %v", len(o.Jobs), o.Complete, err)
	}
	if _, err := b.Inventory(t.Context()); err != nil {
		t.Errorf("inventory: %v", err)
	}
	_, err = b.Observe(t.Context(), "recorded", []string{"alice"})
	var e *backends.Error
	if !errors.As(err, &e) || e.Kind != backends.KindDenied || e.Op != "observe" {
		t.Errorf("alice alone: %v", err)
	}
}
