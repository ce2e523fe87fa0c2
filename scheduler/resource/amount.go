// Package resource is the arithmetic of the scheduler: amounts are integers
// (cpu in millicores, memory in bytes, devices in pieces), every operation
// saturates rather than overflows, and none panics. It knows nothing of nodes
// or pods, holds no state and imports no client.
package resource

import (
	"math"
	"math/bits"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"
)

// The bounds of an amount. A result beyond them is the bound itself.
const (
	Max = math.MaxInt64
	Min = math.MinInt64
)

// Add returns a+b, saturating.
func Add(a, b int64) int64 {
	s := a + b
	if (s > a) == (b > 0) {
		return s
	}
	if b > 0 {
		return Max
	}
	if b == 0 {
		return a
	}
	return Min
}

// Sub returns a-b, saturating.
func Sub(a, b int64) int64 {
	if b == Min {
		// -Min is not an int64: a-Min is a+Max+1.
		return Add(Add(a, Max), 1)
	}
	return Add(a, -b)
}

// Mul returns a*b, saturating.
func Mul(a, b int64) int64 {
	negative := (a < 0) != (b < 0)
	hi, lo := bits.Mul64(magnitude(a), magnitude(b))
	if negative {
		if hi != 0 || lo > 1<<63 {
			return Min
		}
		return int64(-lo)
	}
	if hi != 0 || lo > Max {
		return Max
	}
	return int64(lo)
}

func magnitude(a int64) uint64 {
	if a < 0 {
		return -uint64(a)
	}
	return uint64(a)
}

// Share returns part/whole in units of 1/ShareUnit, rounded down, at most
// MaxShare. A negative part counts as nothing; any part of an empty whole is
// MaxShare. It is how unlike resources are compared without floating point.
func Share(part, whole int64) int64 {
	if part <= 0 {
		return 0
	}
	if whole <= 0 {
		return MaxShare
	}
	hi, lo := bits.Mul64(uint64(part), ShareUnit)
	if hi >= uint64(whole) {
		return MaxShare
	}
	q, _ := bits.Div64(hi, lo, uint64(whole))
	if q > MaxShare {
		return MaxShare
	}
	return int64(q)
}

// ShareUnit is a whole; MaxShare bounds what Share returns, so that a share
// times a queue weight still fits an int64.
const (
	ShareUnit = 1 << 30
	MaxShare  = 1 << 46
)

// Requested converts a quantity that somebody asks for: cpu to millicores and
// anything else to whole units, both rounded up. Negative is zero.
func Requested(name string, q kresource.Quantity) int64 {
	largest := *kresource.NewQuantity(Max, kresource.DecimalSI)
	if name == string(corev1.ResourceCPU) {
		largest = *kresource.NewMilliQuantity(Max, kresource.DecimalSI)
	}
	switch {
	case q.Sign() <= 0:
		return 0
	case q.Cmp(largest) >= 0: // Value and MilliValue wrap around beyond an int64
		return Max
	case name == string(corev1.ResourceCPU):
		return q.MilliValue()
	}
	return q.Value()
}

// Offered converts a quantity that a node offers, rounded down, so that
// rounding never makes more than there is. Negative is zero.
func Offered(name string, q kresource.Quantity) int64 {
	v := Requested(name, q)
	back := kresource.NewQuantity(v, kresource.DecimalSI)
	if name == string(corev1.ResourceCPU) {
		back = kresource.NewMilliQuantity(v, kresource.DecimalSI)
	}
	if v > 0 && back.Cmp(q) > 0 {
		v--
	}
	return v
}

// Part returns a*b/c, rounded down, without overflow in between; it saturates. A
// negative a or b counts as nothing, and so does every part of no c.
func Part(a, b, c int64) int64 {
	if a <= 0 || b <= 0 || c <= 0 {
		return 0
	}
	hi, lo := bits.Mul64(uint64(a), uint64(b))
	if hi >= uint64(c) {
		return Max
	}
	q, _ := bits.Div64(hi, lo, uint64(c))
	if q > Max {
		return Max
	}
	return int64(q)
}
