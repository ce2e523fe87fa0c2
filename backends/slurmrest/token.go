package slurmrest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/slurmjob"
)

const (
	// DefaultLifetime of tokens made here, MaxLifetime the longest that may be asked for.
	DefaultLifetime = 30 * time.Minute
	// MaxLifetime is the longest life of a token made here.
	MaxLifetime = time.Hour
	minLifetime = time.Minute

	maxSecret = 64 << 10
	// minKey is the shortest HS256 key that is signed with.
	minKey = 16
)

// Token is what a request shows for its user.
type Token struct {
	Text string
	// Origin tells one source of a token from another without telling it: as long
	// as it is the same, a token that was refused would be refused again.
	Origin string
}

// Tokens gives the token of a user. It may read files or Secrets, each time:
// they are replaced while the daemon runs. An error means that there is none.
type Tokens interface {
	Token(ctx context.Context, user string, now time.Time) (Token, error)
}

// Reader reads a secret for a user, such as a file or a key of a Secret.
type Reader func(ctx context.Context, user string) ([]byte, error)

// FileReader reads path for all users or, when it is a directory, the file in
// it that has the user's name.
func FileReader(path string) Reader {
	return func(_ context.Context, user string) ([]byte, error) {
		at := path
		info, err := os.Stat(at)
		if err != nil {
			return nil, err
		}
		if info.IsDir() {
			at = filepath.Join(path, user) // a user name is one path element
		}
		f, err := os.Open(at)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		raw, err := io.ReadAll(io.LimitReader(f, maxSecret+1))
		if err == nil && len(raw) > maxSecret {
			err = fmt.Errorf("%s is larger than %d bytes", at, maxSecret)
		}
		return raw, err
	}
}

// privileged users could act on everybody's jobs. Slurm's own user has the name
// "slurm" at most sites.
func privileged(user string) bool { return user == "root" || user == "slurm" }

func checkTokenUser(user string) error {
	if err := slurmjob.CheckUser(user); err != nil {
		return err
	}
	// A number could be the uid of anybody.
	if privileged(user) || strings.ContainsAny(user, `/\`) || strings.Trim(user, "0123456789") == "" {
		return fmt.Errorf("no token is made or used for user %q", user)
	}
	return nil
}

func originOf(raw []byte) string {
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:8])
}

// Given gives tokens that somebody else made: one for all, or one a user.
func Given(read Reader) Tokens { return given{read} }

type given struct{ read Reader }

func (g given) Token(ctx context.Context, user string, now time.Time) (Token, error) {
	if err := checkTokenUser(user); err != nil {
		return Token{}, err
	}
	raw, err := g.read(ctx, user)
	if err != nil {
		return Token{}, fmt.Errorf("read the token of user %s: %w", user, err)
	}
	// "scontrol token" prints "SLURM_JWT=<token>".
	text := strings.TrimPrefix(strings.TrimSpace(string(raw)), "SLURM_JWT=")
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Token{}, fmt.Errorf("the token of user %s is not one word of printable characters", user)
	}
	c := claimsOf(text)
	// Only what the token says plainly: a site may name its users by another claim.
	if c.Sun != "" && c.Sun != user {
		if privileged(c.Sun) {
			return Token{}, fmt.Errorf("the token is of user %s, who could act on everybody's jobs; give one of user %s", c.Sun, user)
		}
		return Token{}, fmt.Errorf("the token is of user %s, not of user %s", c.Sun, user)
	}
	if c.Exp != 0 && now.After(time.Unix(c.Exp, 0)) {
		return Token{}, fmt.Errorf("the token of user %s expired at %s", user, time.Unix(c.Exp, 0).UTC().Format(time.RFC3339))
	}
	return Token{Text: text, Origin: originOf([]byte(text))}, nil
}

// claims are those of a JSON Web Token that matter here.
type claims struct {
	Sun string `json:"sun"`
	Iat int64  `json:"iat"`
	Exp int64  `json:"exp"`
}

// claimsOf reads a token's claims without checking its signature, which is the
// server's to check; what is not understood reads as none.
func claimsOf(token string) (c claims) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return claims{}
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &c) != nil {
		return claims{}
	}
	return c
}

// Minted makes tokens of the given lifetime, 0 for DefaultLifetime, from
// Slurm's HS256 key; each is replaced at half of its life. The key is read
// again for every token.
func Minted(key Reader, lifetime time.Duration) (Tokens, error) {
	if lifetime == 0 {
		lifetime = DefaultLifetime
	}
	if lifetime < minLifetime || lifetime > MaxLifetime {
		return nil, fmt.Errorf("tokenLifetime: %s is not between %s and %s", lifetime, minLifetime, MaxLifetime)
	}
	return &minter{key: key, lifetime: lifetime, made: map[string]made{}}, nil
}

type minter struct {
	key      Reader
	lifetime time.Duration
	mu       sync.Mutex
	made     map[string]made
}

type made struct {
	token Token
	born  time.Time
}

func (m *minter) Token(ctx context.Context, user string, now time.Time) (Token, error) {
	if err := checkTokenUser(user); err != nil {
		return Token{}, err
	}
	m.mu.Lock()
	old, ok := m.made[user]
	m.mu.Unlock()
	// A clock that was set back must not keep a token alive.
	if age := now.Sub(old.born); ok && age >= 0 && age < m.lifetime/2 {
		return old.token, nil
	}
	key, err := m.key(ctx, user)
	if err != nil {
		return Token{}, fmt.Errorf("read the key of tokens: %w", err)
	}
	text, err := mint(key, claims{Sun: user, Iat: now.Unix(), Exp: now.Add(m.lifetime).Unix()})
	if err != nil {
		return Token{}, err
	}
	fresh := made{Token{Text: text, Origin: originOf(key)}, now}
	m.mu.Lock()
	m.made[user] = fresh
	m.mu.Unlock()
	return fresh.token, nil
}

// mint signs claims as RFC 7519 and Slurm's auth/jwt want it.
func mint(key []byte, c claims) (string, error) {
	if len(key) < minKey {
		return "", fmt.Errorf("the key of tokens has %d bytes, fewer than %d", len(key), minKey)
	}
	body, err := json.Marshal(c)
	if err != nil {
		return "", errors.New("write the claims of a token")
	}
	enc := base64.RawURLEncoding
	text := enc.EncodeToString([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + enc.EncodeToString(body)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(text))
	return text + "." + enc.EncodeToString(mac.Sum(nil)), nil
}
