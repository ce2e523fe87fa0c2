package config

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // the time zones that a configuration names, in containers without any

	"github.com/isthmus-hpc/isthmus/scheduler/framework"
	"github.com/isthmus-hpc/isthmus/scheduler/plugins/tdm"
)

// evictPeriod is the argument for the time between two rounds.
const evictPeriod = "tdm.evict.period"

// revocableZone is before the name of a zone.
const revocableZone = "tdm.revocable-zone."

func isWindow(s string) error {
	_, err := tdm.ParseWindow(s)
	return err //nolint:wrapcheck // the package says what is wrong with the text
}

func isLocation(s string) error {
	if _, err := time.LoadLocation(s); err != nil || s == "Local" {
		return fmt.Errorf(`is %q, must be the name of a time zone like "Europe/Berlin"`, s)
	}
	return nil
}

func makeTDM(p Plugin) framework.Plugin {
	out := tdm.Plugin{Zones: map[string]tdm.Window{}, Period: p.Arguments.Duration(evictPeriod, 0)}
	for _, name := range p.Arguments.Names(revocableZone) {
		if w, err := tdm.ParseWindow(p.Arguments.Text(name, "")); err == nil { // read checked it
			out.Zones[strings.TrimPrefix(name, revocableZone)] = w
		}
	}
	if in, err := time.LoadLocation(p.Arguments.Text("tdm.time-zone", "UTC")); err == nil { // likewise
		out.In = in
	}
	return out
}
