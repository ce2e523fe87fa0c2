package staging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// pull is a gang whose images are wanted, and what the agent said of it.
type pull struct {
	key    backends.Key
	mu     *sync.Mutex
	answer *manifest.Pull
}

// Pull has the images of a staged gang pulled where the verbs run, and tells how
// far that is; it does not wait for its end. What it has begun goes on without
// the caller; a failed pull goes on with a later call. Gangs of one user that come
// at the same time go together.
func (c *Client) Pull(ctx context.Context, user string, key backends.Key) (manifest.Pull, error) {
	if !keyPattern.MatchString(string(key)) {
		return manifest.Pull{}, c.fail("pull", user, key, backends.KindInvalid, errors.New("the key is malformed"))
	}
	c.once.Do(c.share)
	// The answer may come after ctx, when nobody waits for it any more.
	var mu sync.Mutex
	var answer manifest.Pull
	err := c.pulls.Do(ctx, user, pull{key, &mu, &answer})
	var own *Error
	if err != nil && !errors.As(err, &own) {
		err = c.fail("pull", user, key, backends.KindTransient, err)
	}
	if err != nil {
		return manifest.Pull{}, err
	}
	mu.Lock()
	defer mu.Unlock()
	return answer, nil
}

// pullAll runs the verb for several gangs and gives an error for each.
func (c *Client) pullAll(ctx context.Context, user string, pulls []pull) []error {
	var in bytes.Buffer
	keys := make([]backends.Key, len(pulls))
	for i, p := range pulls {
		keys[i] = p.key
		fmt.Fprintf(&in, "{\"key\":%q}\n", p.key) // the pattern of keys needs no escapes
	}
	errs, out := c.answers(ctx, "pull", user, keys, call{stdin: &in, keyless: true, limit: maxCollected})
	answers := map[string]manifest.Pull{}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var a manifest.PullAnswer
		if dec.Decode(&a) != nil {
			break // half an answer is none
		}
		answers[a.Key] = a.Pull
	}
	for _, p := range pulls {
		p.mu.Lock()
		*p.answer = answers[string(p.key)]
		p.mu.Unlock()
	}
	return errs
}
