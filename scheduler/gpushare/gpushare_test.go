package gpushare_test

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/scheduler/gpushare"
)

func drawDevice(t *rapid.T) gpushare.Device {
	d := gpushare.Device{
		MemoryMiB: int64(rapid.IntRange(0, 8).Draw(t, "memory")),
		Slots:     int64(rapid.IntRange(1, 6).Draw(t, "slots")),
		Mode:      rapid.SampledFrom([]string{gpubox.TimeSlice, gpubox.MPS, gpubox.Limited, gpubox.Exclusive}).Draw(t, "mode"),
		Usable:    rapid.IntRange(0, 5).Draw(t, "sick") > 0,
	}
	d.Mixed = d.Mode == gpubox.Limited && rapid.Bool().Draw(t, "mixed")
	return d
}

func drawRequest(t *rapid.T, devices int) gpushare.Request {
	r := gpushare.Request{
		Devices: int64(rapid.IntRange(1, devices).Draw(t, "devices")),
		Cores:   int64(rapid.SampledFrom([]int{0, 10, 25, 50, 100}).Draw(t, "cores")),
		Tenant:  rapid.SampledFrom([]string{"a", "b"}).Draw(t, "tenant"),
	}
	if rapid.Bool().Draw(t, "percent") {
		r.MemoryPercent = int64(rapid.IntRange(1, 100).Draw(t, "memory percent"))
	} else {
		r.MemoryMiB = int64(rapid.IntRange(0, 4).Draw(t, "memory MiB"))
	}
	if rapid.IntRange(0, 4).Draw(t, "demands a mode") == 0 {
		r.Modes = []string{gpubox.MPS, gpubox.Limited}
	}
	return r
}

// tenancy is one pod on one device, as the reference counts.
type tenancy struct {
	device int
	memory int64
	r      gpushare.Request
}

// wrong tells what is forbidden about pods on devices, by looking at each device
// by itself.
func wrong(ds []gpushare.Device, pods []tenancy) string {
	for i, d := range ds {
		var memory, cores, count int64
		tenants := map[string]bool{}
		for _, p := range pods {
			if p.device != i {
				continue
			}
			memory, cores, count = memory+p.memory, cores+p.r.Cores, count+1
			tenants[p.r.Tenant] = true
			if len(p.r.Modes) > 0 && !slices.Contains(p.r.Modes, d.Mode) {
				return fmt.Sprintf("device %d has mode %s, demanded was %v", i, d.Mode, p.r.Modes)
			}
		}
		switch {
		case count == 0:
		case !d.Usable || d.Mode == gpubox.Exclusive:
			return fmt.Sprintf("device %d is not to be shared and has %d pods", i, count)
		case memory > d.MemoryMiB || cores > 100 || count > d.Slots:
			return fmt.Sprintf("device %d %+v: %d MiB, %d %%, %d pods", i, d, memory, cores, count)
		case len(tenants) > 1 && !d.Mixed:
			return fmt.Sprintf("device %d in mode %s has pods of several tenants", i, d.Mode)
		}
	}
	return ""
}

func memoryOf(r gpushare.Request, d gpushare.Device) int64 {
	if r.MemoryPercent > 0 && r.MemoryMiB == 0 {
		return (d.MemoryMiB*r.MemoryPercent + 99) / 100
	}
	return r.MemoryMiB
}

// TestSharesNeverOverlap puts up to 64 shares on up to 8 devices, takes some off
// again, and counts each device over from scratch: nothing is over-committed, no
// device has mixed tenants that its mode forbids, and a refusal is one that the
// count confirms.
func TestSharesNeverOverlap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ds []gpushare.Device
		for range rapid.IntRange(1, 8).Draw(t, "devices") {
			ds = append(ds, drawDevice(t))
		}
		ls := make([]gpushare.Load, len(ds))
		var pods []tenancy
		for range rapid.IntRange(1, 64).Draw(t, "shares") {
			if len(pods) > 0 && rapid.IntRange(0, 4).Draw(t, "leave") == 0 {
				i := rapid.IntRange(0, len(pods)-1).Draw(t, "who")
				p := pods[i]
				ls[p.device] = gpushare.Sub(ds[p.device], ls[p.device], p.r)
				pods = slices.Delete(pods, i, i+1)
				continue
			}
			r := drawRequest(t, len(ds))
			fits := 0
			for i := range ds {
				one := r
				one.Devices = 1
				with := wrong(ds, append(slices.Clone(pods), tenancy{i, memoryOf(r, ds[i]), one})) == ""
				if room := gpushare.Room(ds[i], ls[i], r); with != (room > 0) {
					t.Fatalf("device %d %+v with %+v: room %d for %+v, by count it fits: %v", i, ds[i], ls[i], room, r, with)
				}
				if with {
					fits++
				}
			}
			got := gpushare.Pick(ds, ls, r)
			if (got != nil) != (int64(fits) >= r.Devices) {
				t.Fatalf("picked %v of %d that fit, wanted %d", got, fits, r.Devices)
			}
			for _, i := range got {
				ls[i] = gpushare.Add(ds[i], ls[i], r)
				pods = append(pods, tenancy{i, memoryOf(r, ds[i]), r})
			}
			if msg := wrong(ds, pods); msg != "" {
				t.Fatal(msg)
			}
		}
	})
}

// most is the largest number of equal pods by trying every choice of devices.
func most(ds []gpushare.Device, ls []gpushare.Load, r gpushare.Request, limit int) int {
	if limit == 0 {
		return 0
	}
	best := 0
	var choose func(at, left int, chosen []int)
	choose = func(at, left int, chosen []int) {
		if best == limit {
			return
		}
		if left == 0 {
			next := slices.Clone(ls)
			for _, i := range chosen {
				next[i] = gpushare.Add(ds[i], next[i], r)
			}
			best = max(best, 1+most(ds, next, r, limit-1))
			return
		}
		for i := at; i < len(ds); i++ {
			if gpushare.Room(ds[i], ls[i], r) > 0 {
				choose(i+1, left-1, append(chosen, i))
			}
		}
	}
	choose(0, int(r.Devices), nil)
	return best
}

// TestTotalIsTheMost compares Total, and picking one pod after the other, with an
// exhaustive search.
func TestTotalIsTheMost(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var ds []gpushare.Device
		for range rapid.IntRange(1, 4).Draw(t, "devices") {
			ds = append(ds, drawDevice(t))
		}
		ls := make([]gpushare.Load, len(ds))
		for i := range ds {
			if r := drawRequest(t, 1); rapid.Bool().Draw(t, "used") && gpushare.Room(ds[i], ls[i], r) > 0 {
				ls[i] = gpushare.Add(ds[i], ls[i], r)
			}
		}
		r := drawRequest(t, len(ds))
		const limit = 5
		want := most(ds, ls, r, limit)
		if got := gpushare.Total(ds, ls, r, limit); got != int64(want) {
			t.Fatalf("total %d, exhaustive search %d: %+v %+v %+v", got, want, ds, ls, r)
		}
		for n := range want {
			got := gpushare.Pick(ds, ls, r)
			if got == nil {
				t.Fatalf("picking stops after %d of %d", n, want)
			}
			for _, i := range got {
				ls[i] = gpushare.Add(ds[i], ls[i], r)
			}
		}
	})
}

func TestPickKeepsWholeDevicesFree(t *testing.T) {
	d := gpushare.Device{MemoryMiB: 16384, Slots: 10, Mode: gpubox.TimeSlice, Usable: true}
	ds, ls := []gpushare.Device{d, d, d}, make([]gpushare.Load, 3)
	r := gpushare.Request{Devices: 1, MemoryMiB: 4096, Tenant: "a"}
	for n := range 4 {
		got := gpushare.Pick(ds, ls, r)
		if len(got) != 1 || got[0] != 0 {
			t.Fatalf("share %d goes to %v", n, got)
		}
		ls[0] = gpushare.Add(d, ls[0], r)
	}
	if got := gpushare.Pick(ds, ls, r); len(got) != 1 || got[0] != 1 {
		t.Fatalf("the fifth share goes to %v", got)
	}
}
