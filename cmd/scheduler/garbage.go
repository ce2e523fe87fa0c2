package main

import (
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
	limit, err := memlimit.SetGoMemLimitWithOpts(memlimit.WithRatio(0.9), memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)))
	switch {
	case err != nil:
		log.Info("how much memory may be used is not known; garbage is collected early", "reason", err.Error())
		return
	case limit == 0 && os.Getenv("GOMEMLIMIT") == "":
		return
	}
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(driver.GCPercent)
	}
	log.V(1).Info("memory is bounded", "bytes", debug.SetMemoryLimit(-1))
}
