package account_test

import (
	"bytes"
	"os"
	"os/user"
	"testing"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

func TestEnsureTwice(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("not root: making users needs root")
	}
	if err := account.Ensure(t.Context(), t.Output()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{account.Alice, account.Bob, account.Rest} {
		u, err := user.Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		if u.Uid == "0" || u.HomeDir == "" {
			t.Errorf("user %s has uid %s and home %q", name, u.Uid, u.HomeDir)
		}
	}
	var said bytes.Buffer
	if err := account.Ensure(t.Context(), &said); err != nil {
		t.Fatal(err)
	}
	if said.Len() != 0 {
		t.Errorf("the second call did something: %s", said.String())
	}
}
