package entitlement

import "github.com/isthmus-hpc/isthmus/scheduler/resource"

// basin is one of those that an amount is shared among.
type basin struct {
	weight    int64 // at least 0
	low, high int64 // 0 <= low <= high
	got       int64
	frozen    bool
}

// fill shares amount among basins by weight, as water finds its level: each gets
// at least low and at most high, in sum at most amount, and nothing is left while
// somebody below its high has weight. The sum of the lows must not be more than
// amount. Units that do not divide go to the first that can take them.
func fill(amount int64, basins []basin) {
	left := amount
	for i := range basins {
		basins[i].got, basins[i].frozen = basins[i].low, basins[i].weight == 0 || basins[i].low == basins[i].high
		if basins[i].frozen {
			left = resource.Sub(left, basins[i].low)
		}
	}
	// Each round freezes at least one basin at one of its bounds, or is the last:
	// those that would get too little while too much is asked for in sum, those
	// that would get too much otherwise.
	for {
		var weights, over, under int64
		open := false
		for i := range basins {
			if b := &basins[i]; !b.frozen {
				weights, open = resource.Add(weights, b.weight), true
			}
		}
		if !open {
			break
		}
		for i := range basins {
			b := &basins[i]
			if b.frozen {
				continue
			}
			b.got = resource.Part(left, b.weight, weights)
			over = resource.Add(over, max(b.got-b.high, 0))
			under = resource.Add(under, max(b.low-b.got, 0))
		}
		if over == 0 && under == 0 {
			break
		}
		taken := left
		for i := range basins {
			b := &basins[i]
			switch {
			case b.frozen:
			case under >= over && b.got < b.low:
				b.got, b.frozen = b.low, true
				taken -= b.low
			case under < over && b.got > b.high:
				b.got, b.frozen = b.high, true
				taken -= b.high
			}
		}
		left = max(taken, 0)
	}
	for i := range basins {
		if !basins[i].frozen {
			left -= basins[i].got
		}
	}
	// Parts are rounded down, so that one may have been left at its low a unit too
	// early: what is left is for everybody with weight.
	for progress := true; left > 0 && progress; {
		progress = false
		for i := range basins {
			if b := &basins[i]; b.weight > 0 && left > 0 && b.got < b.high {
				b.got++
				left--
				progress = true
			}
		}
	}
}
