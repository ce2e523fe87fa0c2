package local

import (
	"os/user"
	"strings"
	"testing"
)

func TestAllowed(t *testing.T) {
	alice := &user.User{Username: "alice", Uid: "1001"}
	toor := &user.User{Username: "toor", Uid: "0"}
	for name, c := range map[string]struct {
		user  *user.User
		euid  int
		users []string
		want  string // "" is allowed
	}{
		"root for a listed user":     {alice, 0, []string{"bob", "alice"}, ""},
		"root for an unlisted user":  {alice, 0, []string{"bob"}, "not one of the users"},
		"root with an empty list":    {alice, 0, nil, "not one of the users"},
		"uid 0 by another name":      {toor, 0, []string{"toor"}, "never run as root"},
		"itself":                     {alice, 1001, nil, ""},
		"somebody else, though told": {alice, 1002, []string{"alice"}, "not as root"},
	} {
		t.Run(name, func(t *testing.T) {
			err := allowed(c.user, c.euid, c.users)
			if (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
		})
	}
}
