package staging_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
)

// Pulls of one user that are asked for at the same time share a command; each
// gang has its own answer and its own failure.
func TestPullTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, r := client()
		r.wait = make(chan struct{})
		errs, states := make([]error, 5), make([]manifest.Pull, 5)
		var group sync.WaitGroup
		for i := range errs {
			group.Go(func() { states[i], errs[i] = c.Pull(t.Context(), "alice", backends.Key(fmt.Sprint("k", i))) })
			synctest.Wait()
		}
		r.out.Stdout = []byte(`{"key":"k1","code":0,"pull":{"version":1,"done":true}}` + "\n" +
			`{"key":"k2","code":0,"pull":{"version":1,"failures":2,"images":[{"image":"i","reason":"ErrImagePull"}]}}` + "\n" + `{"key":"k3","code":4,"error":"gone"}` + "\n")
		close(r.wait)
		group.Wait()
		if len(r.got) != 2 || strings.Join(r.got[1].Argv, " ") != "/opt/podrun agent pull --root /shared/alice/k8s" || strings.Count(string(r.stdin), "\n") != 4 {
			t.Errorf("ran %v with input %q", r.got, r.stdin)
		}
		<-time.After(time.Minute) // of the bubble: what waits for more gives up
		if !states[1].Done || states[2].Done || states[2].Failures != 2 || len(states[2].Images) != 1 {
			t.Errorf("answers %+v", states)
		}
		if errs[1] != nil || errs[2] != nil || !errors.Is(errs[3], staging.ErrNotFound) || backends.KindOf(errs[4]) != backends.KindTransient {
			t.Errorf("errors %v", errs)
		}
	})
	c, r := client()
	if _, err := c.Pull(t.Context(), "alice", "../x"); backends.KindOf(err) != backends.KindInvalid || len(r.got) != 0 {
		t.Errorf("a path as key: %v, %v", err, r.got)
	}
}
