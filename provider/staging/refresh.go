package staging

import (
	"bytes"
	"context"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// Refresh hands newer contents of the members' volumes over, all or nothing for
// each member. The runners take them in their own time.
func (c *Client) Refresh(ctx context.Context, user string, key backends.Key, members map[int]translate.Refresh) error {
	archive, err := UpdateArchive(members)
	if err != nil {
		return c.fail("refresh", user, key, backends.KindInvalid, err)
	}
	_, err = c.verb(ctx, "refresh", user, key, call{stdin: bytes.NewReader(archive)})
	return err
}
