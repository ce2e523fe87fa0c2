package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
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

	seen   []byte // the text that was last looked at, good or bad
	failed string // the error of reading that was last told
	warned map[string]bool
}

// load looks at the file once and reports whether it brought a new configuration.
func (c *confFile) load(log logr.Logger) bool {
	text, err := readConf(c.path)
	if err != nil {
		if c.failed != err.Error() {
			c.failed = err.Error()
			c.loaded("unreadable")
			log.Error(err, "configuration not read; the last good one stays in force", "file", c.path)
		}
		return false
	}
	c.failed = ""
	if c.seen != nil && bytes.Equal(text, c.seen) {
		return false
	}
	c.seen = text
	conf, warnings, err := config.Parse(text)
	if err != nil {
		c.loaded("invalid")
		log.Error(err, "configuration is wrong; the last good one stays in force", "file", c.path)
		return false
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
	log.Info("configuration in force", "file", c.path)
	return true
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
			c.load(log)
		}
	}
}
