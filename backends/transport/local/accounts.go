package local

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"os/user"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// accountAge is how long a looked-up account is believed: directory services
	// are slow, and a change of groups may wait a minute.
	accountAge = time.Minute
	// maxAccounts bounds the cache.
	maxAccounts = 4096
	lookupTime  = 20 * time.Second
)

// account is a user of this host.
type account struct {
	name     string
	uid, gid uint32
	groups   []uint32
	home     string
}

type cachedAccount struct {
	account
	at time.Time
}

// accounts looks accounts up and remembers them for a little while.
type accounts struct {
	mu    sync.Mutex
	known map[string]cachedAccount
}

func newAccounts() *accounts {
	return &accounts{known: map[string]cachedAccount{}}
}

func (a *accounts) byName(ctx context.Context, name string) (account, error) {
	if name == "" || strings.HasPrefix(name, "-") || strings.ContainsAny(name, ":/ \t\n") || len(name) > 255 {
		return account{}, fmt.Errorf("%q is not a user name", name)
	}
	acct, err := a.find(ctx, name, "name/"+name, user.Lookup)
	if err == nil && acct.name != name {
		// getent takes a number for a uid; a name is asked for here.
		err = fmt.Errorf("look up user %s: %w", name, errNoAccount)
	}
	return acct, err
}

func (a *accounts) byID(ctx context.Context, uid int) (account, error) {
	id := strconv.Itoa(uid)
	return a.find(ctx, id, "uid/"+id, user.LookupId)
}

// find asks the files of this host first and then, through getent, the
// directory services (LDAP, SSSD) that a static program cannot ask itself.
func (a *accounts) find(ctx context.Context, key, cacheKey string, lookup func(string) (*user.User, error)) (account, error) {
	a.mu.Lock()
	got, ok := a.known[cacheKey]
	a.mu.Unlock()
	if ok && time.Since(got.at) < accountAge {
		return got.account, nil
	}
	u, err := lookup(key)
	var groups []string
	if err == nil {
		groups, err = u.GroupIds()
	} else if u, groups, err = getent(ctx, key); err != nil {
		return account{}, fmt.Errorf("look up user %s: %w", key, err)
	}
	if err != nil {
		return account{}, fmt.Errorf("look up groups of user %s: %w", key, err)
	}
	acct, err := parseAccount(u, groups)
	if err != nil {
		return account{}, fmt.Errorf("look up user %s: %w", key, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.known) >= maxAccounts {
		clear(a.known)
	}
	a.known[cacheKey] = cachedAccount{account: acct, at: time.Now()}
	return acct, nil
}

func parseAccount(u *user.User, groups []string) (account, error) {
	acct := account{name: u.Username, home: u.HomeDir}
	if acct.home == "" {
		acct.home = "/"
	}
	uid, err := strconv.ParseUint(u.Uid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("uid %q: %w", u.Uid, err)
	}
	gid, err := strconv.ParseUint(u.Gid, 10, 32)
	if err != nil {
		return account{}, fmt.Errorf("gid %q: %w", u.Gid, err)
	}
	acct.uid, acct.gid = uint32(uid), uint32(gid)
	for _, g := range groups {
		id, err := strconv.ParseUint(g, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("group %q: %w", g, err)
		}
		acct.groups = append(acct.groups, uint32(id))
	}
	return acct, nil
}

// errNoAccount says that no source of this host knows the user.
var errNoAccount = errors.New("no such user")

func getent(ctx context.Context, key string) (*user.User, []string, error) {
	ctx, stop := context.WithTimeout(ctx, lookupTime)
	defer stop()
	out, err := exec.CommandContext(ctx, "getent", "passwd", "--", key).Output()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 2 || errors.Is(err, exec.ErrNotFound) {
		return nil, nil, errNoAccount
	}
	if err != nil {
		return nil, nil, fmt.Errorf("getent: %w", err)
	}
	fields := strings.Split(strings.TrimRight(string(out), "\n"), ":")
	if len(fields) != 7 {
		return nil, nil, fmt.Errorf("getent gave %d fields, want 7", len(fields))
	}
	u := &user.User{Username: fields[0], Uid: fields[2], Gid: fields[3], HomeDir: fields[5]}
	ids, err := exec.CommandContext(ctx, "id", "-G", "--", u.Username).Output()
	if err != nil {
		return nil, nil, fmt.Errorf("id: %w", err)
	}
	return u, strings.Fields(string(ids)), nil
}
