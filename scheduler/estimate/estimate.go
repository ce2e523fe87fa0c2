// Package estimate learns how long gangs run from the runs of their like before
// them. It is pure, bounded in size, and adding a run twice changes nothing: runs
// may be reported again after a restart.
package estimate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

const (
	// MaxKeys bounds the likes of gangs that are remembered, MaxRuns the runs of each:
	// about 300 KiB in all, which an object of the API server can hold.
	MaxKeys = 1000
	// MaxRuns is how many runs of a key are kept, the latest.
	MaxRuns = 16
	// Least is how many runs it takes to tell anything.
	Least = 3
	// Percent of the runs were no longer than what is told.
	Percent = 90
	// MaxKey bounds the length of a key; longer ones are not remembered.
	MaxKey = 128
)

// Run is one run, in seconds: when it ended, since 1970, and how long it took.
type Run struct{ Ended, Took int64 }

// Book remembers runs by key. It is not safe for concurrent use.
type Book struct{ runs map[string][]Run }

// New returns an empty book.
func New() *Book { return &Book{runs: map[string][]Run{}} }

// Add notes a run and reports whether that is news. A run that is older than all
// that are remembered of a key with enough of them is forgotten at once.
func (b *Book) Add(key string, r Run) bool {
	if key == "" || len(key) > MaxKey || r.Took < 0 || r.Ended <= 0 {
		return false
	}
	runs := b.runs[key]
	at, known := slices.BinarySearchFunc(runs, r, compare)
	if known || at == 0 && len(runs) >= MaxRuns {
		return false
	}
	if runs == nil && len(b.runs) >= MaxKeys {
		oldest := b.oldest()
		if last(b.runs[oldest]) >= r.Ended {
			return false
		}
		delete(b.runs, oldest)
	}
	runs = slices.Insert(slices.Clone(runs), at, r)
	b.runs[key] = runs[max(len(runs)-MaxRuns, 0):]
	return true
}

func compare(a, b Run) int { return cmp.Or(cmp.Compare(a.Ended, b.Ended), cmp.Compare(a.Took, b.Took)) }

func last(runs []Run) int64 { return runs[len(runs)-1].Ended }

// oldest is the key of which nothing was heard for the longest time.
func (b *Book) oldest() string {
	return slices.MinFunc(slices.Collect(maps.Keys(b.runs)), func(x, y string) int {
		return cmp.Or(cmp.Compare(last(b.runs[x]), last(b.runs[y])), strings.Compare(x, y))
	})
}

// Estimate is how long a run of a key takes at most, as most of those before did; 0
// when too few are known.
func (b *Book) Estimate(key string) time.Duration {
	runs := b.runs[key]
	if len(runs) < Least {
		return 0
	}
	took := make([]int64, 0, len(runs))
	for _, r := range runs {
		took = append(took, r.Took)
	}
	slices.Sort(took)
	rank := (len(took)*Percent + 99) / 100
	return time.Duration(max(took[rank-1], 1)) * time.Second
}

// Keys counts the keys that are remembered.
func (b *Book) Keys() int { return len(b.runs) }

// Merge adds all that another book knows and reports whether any of it is news.
func (b *Book) Merge(o *Book) bool {
	news := false
	for _, key := range slices.Sorted(maps.Keys(o.runs)) {
		for _, r := range o.runs[key] {
			news = b.Add(key, r) || news
		}
	}
	return news
}

// version is the format that is written and the only one read.
const version = 1

type document struct {
	Version int                   `json:"version"`
	Runs    map[string][][2]int64 `json:"runs"` // ended, took
}

// Encode writes the book; equal books give equal bytes.
func (b *Book) Encode() ([]byte, error) {
	d := document{Version: version, Runs: map[string][][2]int64{}}
	for key, runs := range b.runs {
		for _, r := range runs {
			d.Runs[key] = append(d.Runs[key], [2]int64{r.Ended, r.Took})
		}
	}
	text, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encode runs: %w", err)
	}
	return text, nil
}

// Decode reads what Encode wrote, within the bounds of a book.
func Decode(text []byte) (*Book, error) {
	var d document
	if err := json.Unmarshal(text, &d); err != nil {
		return nil, fmt.Errorf("read runs: %w", err)
	}
	if d.Version != version {
		return nil, fmt.Errorf("read runs: version %d, want %d", d.Version, version)
	}
	b := New()
	for _, key := range slices.Sorted(maps.Keys(d.Runs)) {
		for _, r := range d.Runs[key] {
			b.Add(key, Run{r[0], r[1]})
		}
	}
	return b, nil
}
