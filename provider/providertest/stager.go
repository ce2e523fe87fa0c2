package providertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// Stager is a staging area in memory. What the pod runner would write there is
// set by the test.
type Stager struct {
	// Images is what Pull answers of a gang, with the area locked; nil is that all
	// are there. It is set before the first use.
	Images func(*StagedGang) manifest.Pull

	mu     sync.Mutex
	gangs  map[backends.Key]*StagedGang
	others []other
}

// other is a directory whose name another user's directory has as well.
type other struct {
	key  backends.Key
	gang *StagedGang
}

// StagedGang is one directory.
type StagedGang struct {
	User   string
	Output translate.Output
	Pods   map[int]manifest.Status
	End    *manifest.End
	Stops  map[int]manifest.Stop
	Orders int                       // calls of Stop so far
	Fresh  map[int]translate.Refresh // last one of each rank
	Times  int                       // refreshes so far
	Added  map[int]manifest.Ephemeral
	Wanted map[int]manifest.Want
	Pulls  int // calls of Pull so far
}

// NewStager gives an empty area.
func NewStager() *Stager { return &Stager{gangs: map[backends.Key]*StagedGang{}} }

// Stage implements provider.Stager.
func (s *Stager) Stage(_ context.Context, user string, key backends.Key, out translate.Output) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.gangs[key]; old != nil && old.User != user {
		s.others = append(s.others, other{key, old})
		delete(s.gangs, key)
	}
	if s.gangs[key] == nil {
		s.gangs[key] = &StagedGang{User: user, Output: out, Pods: map[int]manifest.Status{}, Stops: map[int]manifest.Stop{}}
	}
	return nil
}

// Pull implements provider.Stager.
func (s *Stager) Pull(_ context.Context, user string, key backends.Key) (manifest.Pull, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gangs[key]
	if g == nil || g.User != user {
		return manifest.Pull{}, fmt.Errorf("pull images of gang %s: no such directory", key)
	}
	if g.Pulls++; s.Images != nil {
		return s.Images(g), nil
	}
	return manifest.Pull{Version: manifest.Version, Done: true}, nil
}

// Collect implements provider.Stager.
func (s *Stager) Collect(_ context.Context, user string) (manifest.Collected, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := manifest.Collected{Gangs: map[string]manifest.CollectedGang{}}
	all := slices.Clone(s.others)
	for key, g := range s.gangs {
		all = append(all, other{key, g})
	}
	for _, o := range all {
		key, g := o.key, o.gang
		if g.User != user {
			continue
		}
		c := manifest.CollectedGang{Pods: map[int]manifest.Status{}, Ranks: map[string]int{}, Components: g.Output.Gang.Components, Licenses: g.Output.Gang.Licenses}
		for rank, st := range g.Pods {
			c.Pods[rank] = st
		}
		if g.End != nil {
			end := *g.End
			c.End = &end
		}
		for _, m := range g.Output.Gang.Members {
			c.Ranks[m.UID] = m.Rank
		}
		out.Gangs[string(key)] = c
	}
	return out, nil
}

// Stop implements provider.Stager.
func (s *Stager) Stop(_ context.Context, user string, key backends.Key, stops map[int]manifest.Stop) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gangs[key]
	if g == nil || g.User != user {
		return &backends.Error{Op: "stop", Kind: backends.KindInvalid, Key: key, Err: errors.New("no such directory")}
	}
	maps.Copy(g.Stops, stops)
	g.Orders++
	return nil
}

// Refresh implements provider.Stager.
func (s *Stager) Refresh(_ context.Context, user string, key backends.Key, members map[int]translate.Refresh) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gangs[key]
	if g == nil || g.User != user {
		return fmt.Errorf("refresh gang %s: no such directory", key)
	}
	if g.Fresh == nil {
		g.Fresh = map[int]translate.Refresh{}
	}
	for rank, r := range members {
		g.Fresh[rank] = r
	}
	g.Times++
	return nil
}

// Ephemeral implements provider.Stager.
func (s *Stager) Ephemeral(_ context.Context, user string, key backends.Key, rank int, list manifest.Ephemeral) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gangs[key]
	if g == nil || g.User != user {
		return fmt.Errorf("add containers to gang %s: no such directory", key)
	}
	if g.Added == nil {
		g.Added = map[int]manifest.Ephemeral{}
	}
	g.Added[rank] = list
	return nil
}

// Want implements provider.Stager.
func (s *Stager) Want(_ context.Context, user string, key backends.Key, rank int, want manifest.Want) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gangs[key]
	if g == nil || g.User != user {
		return fmt.Errorf("want images for gang %s: no such directory", key)
	}
	if g.Wanted == nil {
		g.Wanted = map[int]manifest.Want{}
	}
	g.Wanted[rank] = want
	return nil
}

// Remove implements provider.Stager.
func (s *Stager) Remove(_ context.Context, user string, key backends.Key) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g := s.gangs[key]; g != nil && g.User == user {
		delete(s.gangs, key)
	}
	s.others = slices.DeleteFunc(s.others, func(o other) bool { return o.key == key && o.gang.User == user })
	return nil
}

// WorkDir implements provider.Stager.
func (s *Stager) WorkDir(user string, key backends.Key) string {
	return "/staging/" + user + "/g/" + string(key)
}

// Change lets a test act as the pod runner on one directory; it reports false
// when there is none.
func (s *Stager) Change(key backends.Key, fn func(*StagedGang)) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.gangs[key]
	if g != nil {
		fn(g)
	}
	return g != nil
}

// Forge adds a directory that another user made by hand; call it outside Change.
func (s *Stager) Forge(key backends.Key, g *StagedGang) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.others = append(s.others, other{key, g})
}

// Users names who has a directory for the key.
func (s *Stager) Users(key backends.Key) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	if g := s.gangs[key]; g != nil {
		out = append(out, g.User)
	}
	for _, o := range s.others {
		if o.key == key {
			out = append(out, o.gang.User)
		}
	}
	return out
}

// Len is the number of directories.
func (s *Stager) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.gangs) + len(s.others)
}
