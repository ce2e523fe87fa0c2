package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/go-logr/logr"

	"github.com/isthmus-hpc/isthmus/scheduler/config"
	"github.com/isthmus-hpc/isthmus/scheduler/framework"
)

// confPeriod is how often the configuration is looked at. The file of a mounted
// ConfigMap is replaced by a link to another folder, which only a look at the
// path itself tells reliably.
const confPeriod = 2 * time.Second

// maxConf bounds what is read of it; a ConfigMap is smaller.
const maxConf = 4 << 20

// confFile is the configuration file. What was last good stays in force.
type confFile struct {
	path   string
	use    func(framework.Pipeline)
	loaded func(result string)
	// also, when set, is told the configuration itself.
	also func(config.Config)

	mu     sync.Mutex // of what follows: a new leader looks beside the watch
	good   bool       // one is in force
	seen   []byte     // the text that was last looked at, good or bad
	wrong  error      // what is wrong with that text
	failed string     // the error of reading that was last told
	warned map[string]bool
}

// first looks at the file when the program starts. There is no last good
// configuration then, and the standard one would evict where the site's own may not:
// one that brings none is an error.
func (c *confFile) first(log logr.Logger) error {
	if err := c.load(log); err != nil {
		return fmt.Errorf("--scheduler-conf=%s brings no configuration to start with; mend the file, or leave the flag out for the standard one: %w", c.path, err)
	}
	return nil
}

// load looks at the file once. The error says why what it holds is not in force.
func (c *confFile) load(log logr.Logger) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	text, err := readConf(c.path)
	if err != nil {
		if c.failed != err.Error() {
			c.failed = err.Error()
			c.loaded("unreadable")
			c.keep(log, err, "configuration not read; the last good one stays in force")
		}
		return err
	}
	c.failed = ""
	if c.seen != nil && bytes.Equal(text, c.seen) {
		return c.wrong
	}
	c.seen = text
	conf, warnings, err := config.Parse(text)
	if c.wrong = err; err != nil {
		c.loaded("invalid")
		c.keep(log, err, "configuration is wrong; the last good one stays in force")
		return err
	}
	for _, w := range warnings {
		if !c.warned[w] {
			c.warned[w] = true
			log.Info("configuration", "file", c.path, "warning", w)
		}
	}
	c.loaded("good")
	c.use(conf.Pipeline())
	if c.also != nil {
		c.also(conf)
	}
	c.good = true
	log.Info("configuration in force", "file", c.path)
	return nil
}

// keep tells that a change is not taken in. Without a last good configuration the
// program ends, and says why there.
func (c *confFile) keep(log logr.Logger, err error, message string) {
	if c.good {
		log.Error(err, message, "file", c.path)
	}
}

func readConf(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open configuration: %w", err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxConf))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	return text, nil
}

// watch looks at the file until ctx ends.
func (c *confFile) watch(ctx context.Context) {
	log := logr.FromContextOrDiscard(ctx)
	tick := time.NewTicker(confPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			_ = c.load(log) // it is logged
		}
	}
}
