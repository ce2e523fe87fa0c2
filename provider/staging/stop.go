package staging

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// maxGraceSeconds bounds the grace period of a stop.
const maxGraceSeconds = 365 * 24 * 3600

// Stop asks the runners of members, by rank, to end them as a kubelet would. It
// does not wait for that. Orders of one user that come at the same time go
// together. After an error some of the members may have their order.
func (c *Client) Stop(ctx context.Context, user string, key backends.Key, stops map[int]manifest.Stop) error {
	if !keyPattern.MatchString(string(key)) {
		return c.fail("stop", user, key, backends.KindInvalid, errors.New("the key is malformed"))
	}
	order := manifest.StopOrder{Key: string(key), Stops: make(map[int]manifest.Stop, len(stops))}
	for rank, s := range stops {
		if rank < 0 {
			return c.fail("stop", user, key, backends.KindInvalid, fmt.Errorf("rank %d is negative", rank))
		}
		s.GraceSeconds = min(max(s.GraceSeconds, 0), maxGraceSeconds)
		s.Reason = printable(s.Reason, 256)
		order.Stops[rank] = s
	}
	c.once.Do(c.share)
	err := c.stops.Do(ctx, user, order)
	var own *Error
	if err != nil && !errors.As(err, &own) {
		return c.fail("stop", user, key, backends.KindTransient, err)
	}
	return err
}

// stopAll runs the verb for several gangs and gives an error for each.
func (c *Client) stopAll(ctx context.Context, user string, orders []manifest.StopOrder) []error {
	keys := make([]backends.Key, len(orders))
	var in bytes.Buffer
	enc := json.NewEncoder(&in)
	for i, o := range orders {
		keys[i] = backends.Key(o.Key)
		_ = enc.Encode(o) // numbers and valid text: there is nothing that could fail
	}
	return c.many(ctx, "stop", user, keys, call{stdin: &in, keyless: true})
}
