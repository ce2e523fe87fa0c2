package staging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport/groupcommit"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

const (
	// gangsAtOnce and bytesAtOnce bound what one command stages.
	gangsAtOnce = 64
	bytesAtOnce = 16 << 20
	// membersAtOnce bounds what one command stops, beyond a single gang.
	membersAtOnce = 4096
	// linger is how long a stage waits for others when one has just been made.
	linger = 100 * time.Millisecond
)

// parcel is a gang on its way.
type parcel struct {
	key     backends.Key
	archive []byte
}

// Stage writes the gang directory. A directory that is there already is success.
// Gangs of one user that come at the same time go together.
func (c *Client) Stage(ctx context.Context, user string, key backends.Key, out translate.Output) error {
	if out.Gang.Key != string(key) {
		return c.fail("stage", user, key, backends.KindInvalid, fmt.Errorf("the output is of gang %q", out.Gang.Key))
	}
	if !keyPattern.MatchString(string(key)) {
		return c.fail("stage", user, key, backends.KindInvalid, errors.New("the key is malformed"))
	}
	archive, err := Archive(out)
	if err != nil {
		return c.fail("stage", user, key, backends.KindInvalid, err)
	}
	c.once.Do(c.share)
	err = c.stages.Do(ctx, user, parcel{key, archive})
	var own *Error
	if err != nil && !errors.As(err, &own) {
		return c.fail("stage", user, key, backends.KindTransient, err)
	}
	return err
}

// stageAll runs the verb for several gangs and gives an error for each.
func (c *Client) stageAll(ctx context.Context, user string, parcels []parcel) []error {
	errs := make([]error, len(parcels))
	readers := make([]io.Reader, 0, 2*len(parcels))
	for i, p := range parcels {
		header, err := json.Marshal(manifest.StageHeader{Key: string(p.key), Bytes: int64(len(p.archive))})
		if err != nil {
			errs[i] = c.fail("stage", user, p.key, backends.KindInvalid, err)
			return errs
		}
		readers = append(readers, bytes.NewReader(append(header, '\n')), bytes.NewReader(p.archive))
	}
	in := call{stdin: io.MultiReader(readers...), keyless: true}
	if c.Digest != "" {
		in.args = []string{"--digest", c.Digest}
	}
	keys := make([]backends.Key, len(parcels))
	for i, p := range parcels {
		keys[i] = p.key
	}
	return c.many(ctx, "stage", user, keys, in)
}

// share makes what turns verbs on one gang into verbs on many.
func (c *Client) share() {
	c.stages = groupcommit.New(groupcommit.Config[parcel]{
		Run: c.stageAll, Most: gangsAtOnce, Linger: linger,
		Cost: func(p parcel) int64 { return int64(len(p.archive)) }, MostCost: bytesAtOnce,
	})
	c.stops = groupcommit.New(groupcommit.Config[manifest.StopOrder]{
		Run: c.stopAll, Most: gangsAtOnce, Linger: linger,
		Cost: func(o manifest.StopOrder) int64 { return int64(len(o.Stops)) }, MostCost: membersAtOnce,
	})
	c.pulls = groupcommit.New(groupcommit.Config[pull]{Run: c.pullAll, Most: gangsAtOnce, Linger: linger})
	c.removals = groupcommit.New(groupcommit.Config[backends.Key]{Run: c.removeAll, Most: gangsAtOnce, Linger: linger})
}

// Remove deletes the gang directory. A missing one is success. Gangs of one user
// that end at the same time go together.
func (c *Client) Remove(ctx context.Context, user string, key backends.Key) error {
	if !keyPattern.MatchString(string(key)) {
		return c.fail("remove", user, key, backends.KindInvalid, errors.New("the key is malformed"))
	}
	c.once.Do(c.share)
	err := c.removals.Do(ctx, user, key)
	var own *Error
	if err != nil && !errors.As(err, &own) {
		return c.fail("remove", user, key, backends.KindTransient, err)
	}
	return err
}

// removeAll runs the verb for several gangs and gives an error for each.
func (c *Client) removeAll(ctx context.Context, user string, keys []backends.Key) []error {
	if len(keys) == 1 {
		_, err := c.verb(ctx, "remove", user, keys[0], call{})
		return []error{err}
	}
	var in bytes.Buffer
	for _, key := range keys {
		fmt.Fprintf(&in, "{\"key\":%q}\n", key) // the pattern of keys needs no escapes
	}
	return c.many(ctx, "remove", user, keys, call{stdin: &in, keyless: true})
}

// many runs a verb that answers for each gang by itself.
func (c *Client) many(ctx context.Context, name, user string, keys []backends.Key, in call) []error {
	errs, _ := c.answers(ctx, name, user, keys, in)
	return errs
}

// answers is many for a verb that says more than whether it was done.
func (c *Client) answers(ctx context.Context, name, user string, keys []backends.Key, in call) ([]error, []byte) {
	errs := make([]error, len(keys))
	res, err := c.verb(ctx, name, user, "", in)
	answers := map[string]manifest.Answer{}
	dec := json.NewDecoder(bytes.NewReader(res.Stdout))
	for {
		var a manifest.Answer
		if dec.Decode(&a) != nil {
			break // half an answer is none: that gang's turn comes again
		}
		answers[a.Key] = a
	}
	var own *Error
	for i, key := range keys {
		a, ok := answers[string(key)]
		switch {
		case ok && a.Code == 0:
		case ok:
			errs[i] = c.failed(name, user, key, a.Code, printable(a.Error, 512))
		case errors.As(err, &own):
			errs[i] = c.fail(name, user, key, own.Kind, own.Err)
		default:
			errs[i] = c.fail(name, user, key, backends.KindTransient, errors.New("the agent gave no answer"))
		}
	}
	return errs, res.Stdout
}
