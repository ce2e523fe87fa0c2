package resource

import (
	"math/big"
	"testing"

	kresource "k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"
)

// saturate is what the package promises, said by math/big.
func saturate(b *big.Int) int64 {
	if b.Cmp(big.NewInt(Max)) > 0 {
		return Max
	}
	if b.Cmp(big.NewInt(Min)) < 0 {
		return Min
	}
	return b.Int64()
}

func amount() *rapid.Generator[int64] {
	return rapid.OneOf(rapid.Int64(), rapid.Int64Range(-10, 10),
		rapid.SampledFrom([]int64{Max, Min, Max - 1, Min + 1, 0, 1, -1, 1 << 31, 1 << 32, -1 << 32}))
}

func TestArithmeticAgreesWithBigIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := amount().Draw(t, "a"), amount().Draw(t, "b")
		x, y := big.NewInt(a), big.NewInt(b)
		if got, want := Add(a, b), saturate(new(big.Int).Add(x, y)); got != want {
			t.Fatalf("Add(%d, %d) = %d, want %d", a, b, got, want)
		}
		if got, want := Sub(a, b), saturate(new(big.Int).Sub(x, y)); got != want {
			t.Fatalf("Sub(%d, %d) = %d, want %d", a, b, got, want)
		}
		if got, want := Mul(a, b), saturate(new(big.Int).Mul(x, y)); got != want {
			t.Fatalf("Mul(%d, %d) = %d, want %d", a, b, got, want)
		}
		want := int64(0)
		switch {
		case a <= 0:
		case b <= 0:
			want = MaxShare
		default:
			q := new(big.Int).Mul(x, big.NewInt(ShareUnit))
			want = min(saturate(q.Div(q, y)), MaxShare)
		}
		if got := Share(a, b); got != want {
			t.Fatalf("Share(%d, %d) = %d, want %d", a, b, got, want)
		}
	})
}

func TestVectorsAgreeWithBigIntegers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v := Vector(rapid.SliceOfN(amount(), 0, 5).Draw(t, "v"))
		w := Vector(rapid.SliceOfN(amount(), 0, 5).Draw(t, "w"))
		n := amount().Draw(t, "n")
		plus, minus := v.Clone(), v.Clone()
		plus.AddScaled(w, n)
		minus.SubScaled(w, n)
		for i := range v {
			scaled := big.NewInt(saturate(new(big.Int).Mul(big.NewInt(w.at(i)), big.NewInt(n))))
			if want := saturate(new(big.Int).Add(big.NewInt(v[i]), scaled)); plus[i] != want {
				t.Fatalf("AddScaled dimension %d: %d, want %d", i, plus[i], want)
			}
			if want := saturate(new(big.Int).Sub(big.NewInt(v[i]), scaled)); minus[i] != want {
				t.Fatalf("SubScaled dimension %d: %d, want %d", i, minus[i], want)
			}
		}
		limit := rapid.Int64Range(0, 1000).Draw(t, "limit")
		times := v.Times(w, limit)
		fits := func(k int64) bool {
			for i, a := range w {
				if a > 0 && k > 0 && new(big.Int).Mul(big.NewInt(a), big.NewInt(k)).Cmp(big.NewInt(v.at(i))) > 0 {
					return false
				}
			}
			return true
		}
		if times < 0 || times > limit || !fits(times) || times < limit && fits(times+1) {
			t.Fatalf("Times(%v, %v, %d) = %d", v, w, limit, times)
		}
		if v.Covers(w) != fits(1) {
			t.Fatalf("Covers(%v, %v) = %v", v, w, v.Covers(w))
		}
	})
}

func TestDimsRoundTrip(t *testing.T) {
	d := NewDims([]string{"memory", "cpu", "cpu", "nvidia.com/gpu"})
	v, missing := d.Vector(MakeList(Quantity{"cpu", 500}, Quantity{"rdma/hca", 1}, Quantity{"cpu", 250}, Quantity{"x/zero", 0}))
	if got := d.List(v); len(got) != 1 || got.Get("cpu") != 750 {
		t.Fatalf("list is %v", got)
	}
	if len(missing) != 1 || missing.Get("rdma/hca") != 1 {
		t.Fatalf("missing is %v", missing)
	}
}

func TestQuantitiesRoundAgainstTheAsker(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		asked, had int64
	}{
		{"cpu", "1500m", 1500, 1500},
		{"cpu", "100u", 1, 0},
		{"memory", "1Gi", 1 << 30, 1 << 30},
		{"memory", "1500m", 2, 1},
		{"nvidia.com/gpu", "8", 8, 8},
		{"memory", "-5", 0, 0},
		{"memory", "100E", Max, Max},
		{"cpu", "100E", Max, Max},
	} {
		q := kresource.MustParse(tt.text)
		if got := Requested(tt.name, q); got != tt.asked {
			t.Errorf("Requested(%s, %s) = %d, want %d", tt.name, tt.text, got, tt.asked)
		}
		if got := Offered(tt.name, q); got != tt.had {
			t.Errorf("Offered(%s, %s) = %d, want %d", tt.name, tt.text, got, tt.had)
		}
	}
}
