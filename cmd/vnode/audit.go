package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/go-logr/logr"

	"github.com/isthmus-hpc/isthmus/provider/account"
)

// auditTo gives a sink that appends one JSON line a submission to the file, and
// what closes it. Without a path the sink is nil. A record that cannot be
// written is logged whole: the job exists by then.
func auditTo(path string, log logr.Logger) (sink func(account.Submission), end func(), err error) {
	if path == "" {
		return nil, func() {}, nil
	}
	// Appending, so that several daemons and a rotation by copy do no harm.
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, nil, fmt.Errorf("open audit log: %w", err)
	}
	var mu sync.Mutex
	return func(s account.Submission) {
		line, err := json.Marshal(s)
		if err == nil {
			mu.Lock()
			_, err = file.Write(append(line, '\n'))
			mu.Unlock()
		}
		if err != nil {
			log.Error(err, "could not write the audit log", "record", s)
		}
	}, func() { _ = file.Close() }, nil // every line was written when it was made
}
