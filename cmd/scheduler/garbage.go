package main

import (
	"math"
	"os"
	"runtime/debug"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/go-logr/logr"

	"github.com/isthmus-hpc/isthmus/scheduler/driver"
)

// collectSeldom lets garbage grow while there is memory for it, which is cheaper than
// to look through what the cluster holds again and again, and has it collected as
// often as needed close to nine tenths of what the container (else the machine) may
// use. GOGC and GOMEMLIMIT of the environment come first; where no limit is known,
// garbage is collected as ever.
func collectSeldom(log logr.Logger) {
	if _, err := memlimit.SetGoMemLimitWithOpts(memlimit.WithRatio(0.9), memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem))); err != nil {
		log.Info("how much memory may be used is not known; garbage is collected early", "reason", err.Error())
		return
	}
	limit := debug.SetMemoryLimit(-1)
	if limit == math.MaxInt64 {
		return
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(driver.GCPercent)
	}
	log.V(1).Info("memory is bounded", "bytes", limit)
}
