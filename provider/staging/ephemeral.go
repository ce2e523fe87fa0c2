package staging

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Ephemeral tells the runner of one member which containers were added to its
// pod, all that there are. It does not wait for their start.
func (c *Client) Ephemeral(ctx context.Context, user string, key backends.Key, rank int, list manifest.Ephemeral) error {
	body, err := json.Marshal(list)
	if err == nil && rank < 0 {
		err = fmt.Errorf("rank %d is negative", rank)
	}
	if err != nil {
		return c.fail("ephemeral", user, key, backends.KindInvalid, err)
	}
	_, err = c.verb(ctx, "ephemeral", user, key, call{args: []string{"--rank", strconv.Itoa(rank)}, stdin: bytes.NewReader(body)})
	return err
}

// Want notes which images are to be there before containers are added to a member;
// Pull has them pulled and tells how far that is.
func (c *Client) Want(ctx context.Context, user string, key backends.Key, rank int, want manifest.Want) error {
	body, err := json.Marshal(want)
	if err == nil && rank < 0 {
		err = fmt.Errorf("rank %d is negative", rank)
	}
	if err != nil {
		return c.fail("want", user, key, backends.KindInvalid, err)
	}
	_, err = c.verb(ctx, "want", user, key, call{args: []string{"--rank", strconv.Itoa(rank)}, stdin: bytes.NewReader(body)})
	return err
}
