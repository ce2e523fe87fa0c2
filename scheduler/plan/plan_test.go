package plan

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

func TestAmountReadsLikeKubernetes(t *testing.T) {
	for _, tt := range []struct {
		name string
		v    int64
		want string
	}{
		{"cpu", 2000, "2"}, {"cpu", 1500, "1500m"}, {"memory", 64 << 30, "64Gi"}, {"memory", 1 << 20, "1Mi"},
		{"memory", 1000, "1000"}, {"memory", 0, "0"}, {"nvidia.com/gpu", 8, "8"},
	} {
		if got := Amount(tt.name, tt.v); got != tt.want {
			t.Errorf("Amount(%s, %d) = %s, want %s", tt.name, tt.v, got, tt.want)
		}
	}
}

func TestWords(t *testing.T) {
	r := DomainReason{Domain: "c-gpu", Short: []snapshot.Shortage{{Resource: "nvidia.com/gpu", Need: 12, Free: 10, Largest: 8}}}
	if got, want := r.Words(), "c-gpu: needs 12 nvidia.com/gpu, 10 free; biggest host has 8"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := DomainWords([]DomainReason{r, r, r, r, r, r}); !strings.HasSuffix(got, "; and 2 more") {
		t.Errorf("six domains read %q", got)
	}
}

func TestBoundKeepsMessagesShortAndValid(t *testing.T) {
	if got := Bound(strings.Repeat("ü", 2000)); len(got) > maxMessage || !utf8.ValidString(got) || !strings.HasSuffix(got, "...") {
		t.Errorf("%d bytes: %q", len(got), got)
	}
}
