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
	c.once.Do(func() {
		c.stages = groupcommit.New(groupcommit.Config[parcel]{
			Run: c.stageAll, Most: gangsAtOnce, Linger: linger,
			Cost: func(p parcel) int64 { return int64(len(p.archive)) }, MostCost: bytesAtOnce,
		})
	})
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
	in := call{stdin: io.MultiReader(readers...)}
	if c.Digest != "" {
		in.args = []string{"--digest", c.Digest}
	}
	res, err := c.verb(ctx, "stage", user, "", in)
	answers := map[string]manifest.StageAnswer{}
	dec := json.NewDecoder(bytes.NewReader(res.Stdout))
	for {
		var a manifest.StageAnswer
		if dec.Decode(&a) != nil {
			break // half an answer is none: that gang is staged again
		}
		answers[a.Key] = a
	}
	var own *Error
	for i, p := range parcels {
		a, ok := answers[string(p.key)]
		switch {
		case ok && a.Code == 0:
		case ok:
			errs[i] = c.failed("stage", user, p.key, a.Code, printable(a.Error, 512))
		case errors.As(err, &own):
			errs[i] = c.fail("stage", user, p.key, own.Kind, own.Err)
		default:
			errs[i] = c.fail("stage", user, p.key, backends.KindTransient, errors.New("the agent gave no answer"))
		}
	}
	return errs
}
