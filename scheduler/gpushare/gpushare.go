// Package gpushare is the arithmetic of sharing GPUs: who may be on a device
// together, how much is left, and which devices a pod gets. Amounts are
// integers: memory in MiB, cores in percent of a device. It is pure.
package gpushare

import (
	"slices"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
)

// AllCores is the cores of one device.
const AllCores = 100

// Device is what one GPU offers.
type Device struct {
	MemoryMiB int64
	Slots     int64
	Mode      string // of gpubox
	// Mixed allows several tenants at a time.
	Mixed bool
	// Alone says that all cores are asked for to have the device alone, and that nothing
	// more goes on it without cores, as in Volcano.
	Alone bool
	// Usable is false for a sick device.
	Usable bool
}

// Load is what pods hold of a device.
type Load struct {
	MemoryMiB int64
	Cores     int64
	Pods      int64
	// Whole says that a pod has the device for itself.
	Whole bool
	// Tenant is whose the pods are, "" for none and Many for several.
	Tenant string
}

// Many stands for several tenants; it is no name of a namespace.
const Many = "*"

// Empty reports whether nobody is on the device.
func (l Load) Empty() bool { return l.Pods == 0 && !l.Whole }

// Request is what one pod asks of each of so many distinct devices.
type Request struct {
	Devices int64
	// MemoryMiB is memory; or MemoryPercent is, of the device it lands on.
	MemoryMiB     int64
	MemoryPercent int64
	Cores         int64
	Tenant        string
	// Modes are those that will do; empty is any that shares.
	Modes []string
}

// Memory is what the request takes of a device, rounded up.
func (r Request) Memory(d Device) int64 {
	if r.MemoryMiB > 0 || r.MemoryPercent <= 0 {
		return r.MemoryMiB
	}
	whole, rest := d.MemoryMiB/100, d.MemoryMiB%100
	p := min(r.MemoryPercent, 1<<20)
	return whole*p + (rest*p+99)/100
}

// Room is how many pods with this request device d can still take.
func Room(d Device, l Load, r Request) int64 {
	if !d.Usable || l.Whole || !gpubox.Shares(d.Mode) || len(r.Modes) > 0 && !slices.Contains(r.Modes, d.Mode) {
		return 0
	}
	if !d.Mixed && l.Pods > 0 && l.Tenant != r.Tenant {
		return 0
	}
	if d.Alone && (r.Cores >= AllCores && l.Pods > 0 || r.Cores == 0 && l.Cores >= AllCores) {
		return 0
	}
	n := d.Slots - l.Pods
	if m := r.Memory(d); m > 0 {
		n = min(n, (d.MemoryMiB-l.MemoryMiB)/m)
	}
	if r.Cores > 0 {
		n = min(n, (AllCores-l.Cores)/r.Cores)
	}
	return max(n, 0)
}

// Add puts one pod with this request on a device.
func Add(d Device, l Load, r Request) Load {
	l.MemoryMiB += r.Memory(d)
	l.Cores += r.Cores
	switch {
	case l.Pods == 0:
		l.Tenant = r.Tenant
	case l.Tenant != r.Tenant:
		l.Tenant = Many
	}
	l.Pods++
	return l
}

// Sub takes one pod with this request off. Of a device with several tenants it is
// not known who stays, unless nobody does.
func Sub(d Device, l Load, r Request) Load {
	l.MemoryMiB -= r.Memory(d)
	l.Cores -= r.Cores
	if l.Pods--; l.Pods <= 0 {
		return Load{Whole: l.Whole}
	}
	return l
}

// Total is how many pods with this request the devices can take together. A pod
// needs distinct devices, so it is the largest m for which the devices, each
// counted at most m times, make m times Devices.
func Total(ds []Device, ls []Load, r Request, limit int64) int64 {
	if r.Devices <= 0 {
		return limit
	}
	lo, hi := int64(0), limit
	for lo < hi {
		m := lo + (hi-lo+1)/2
		var sum int64
		for i := range ds {
			sum += min(Room(ds[i], ls[i], r), m)
			if sum/r.Devices >= m {
				break
			}
		}
		if sum/r.Devices >= m {
			lo = m
		} else {
			hi = m - 1
		}
	}
	return lo
}

// Pick chooses the devices for one pod, in order of position; nil when there are
// too few. One device is the fullest that still takes the pod, so that whole
// ones stay free; several are those with most room, which leaves room for most
// pods of the kind.
func Pick(ds []Device, ls []Load, r Request) []int {
	type option struct {
		at         int
		room, left int64
		fresh      bool
	}
	var options []option
	for i := range ds {
		if room := Room(ds[i], ls[i], r); room > 0 {
			options = append(options, option{i, room, ds[i].MemoryMiB - ls[i].MemoryMiB, ls[i].Empty()})
		}
	}
	if int64(len(options)) < r.Devices || r.Devices <= 0 {
		return nil
	}
	slices.SortStableFunc(options, func(a, b option) int {
		if r.Devices > 1 {
			return compare(b.room, a.room)
		}
		if a.fresh != b.fresh {
			if a.fresh {
				return 1
			}
			return -1
		}
		if c := compare(a.room, b.room); c != 0 {
			return c
		}
		return compare(a.left, b.left)
	})
	out := make([]int, 0, r.Devices)
	for _, o := range options[:r.Devices] {
		out = append(out, o.at)
	}
	slices.Sort(out)
	return out
}

func compare(a, b int64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}
