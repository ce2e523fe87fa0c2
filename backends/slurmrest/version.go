package slurmrest

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/isthmus-hpc/isthmus/backends"
)

// agree finds the version to speak, once: the first of ours, best known first,
// that the server has a path for. What else the answer says does not matter.
func (s *session) agree(ctx context.Context) error {
	s.b.mu.Lock()
	s.dialect = s.b.dialect
	s.b.mu.Unlock()
	if s.dialect != nil {
		return nil
	}
	for _, d := range dialects() {
		s.dialect = d
		_, err := s.do(ctx, request{method: http.MethodGet, path: d.path("licenses")})
		if errors.Is(err, errNoPath) {
			continue
		}
		// Only Slurm itself proves the path: not a proxy's error, nor silence.
		var said *slurmError
		if err == nil || errors.As(err, &said) {
			s.b.mu.Lock()
			s.b.dialect = d
			s.b.mu.Unlock()
		}
		return err
	}
	s.dialect = nil
	return s.fail(backends.KindTransient, fmt.Errorf("slurmrestd offers none of the versions %s to %s", oldest, newest))
}

// forget makes the next call agree anew: the server may be another by now.
func (s *session) forget() {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	s.b.dialect = nil
}
