package agent

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// stop gives one order and makes an error of its answer.
func stop(t *testing.T, dir string, o manifest.StopOrder) error {
	t.Helper()
	in, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := Stop(dir, bytes.NewReader(in), &out); err != nil {
		return err
	}
	var answer manifest.Answer
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil || answer.Key != o.Key {
		t.Fatalf("answer %q: %v", out.Bytes(), err)
	}
	return failure(answer)
}

func order(key string, rank int, s manifest.Stop) manifest.StopOrder {
	return manifest.StopOrder{Key: key, Stops: map[int]manifest.Stop{rank: s}}
}

func TestStop(t *testing.T) {
	dir := staged(t, "k1")
	for _, grace := range []int64{30, 5} {
		if err := stop(t, dir, order("k1", 0, manifest.Stop{GraceSeconds: grace, Reason: "why"})); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "g/k1/pods/0/ctl/stop"))
		if want := fmt.Sprintf(`{"graceSeconds":%d,"reason":"why"}`, grace); err != nil || string(data) != want {
			t.Errorf("stop: %s, %v", data, err)
		}
	}
	for name, tc := range map[string]struct {
		err  error
		want int
	}{
		"no gang":     {stop(t, dir, order("k9", 0, manifest.Stop{})), ExitNotFound},
		"no pod":      {stop(t, dir, order("k1", 4, manifest.Stop{})), ExitNotFound},
		"bad rank":    {stop(t, dir, order("k1", -1, manifest.Stop{})), ExitInvalid},
		"bad grace":   {stop(t, dir, order("k1", 0, manifest.Stop{GraceSeconds: -1})), ExitInvalid},
		"long reason": {stop(t, dir, order("k1", 0, manifest.Stop{Reason: strings.Repeat("x", 2000)})), ExitInvalid},
		"no order":    {Stop(dir, strings.NewReader("{\"key\":\"k1\"}\nwhat\n"), io.Discard), ExitInvalid},
		"no root":     {Stop(dir+"x", strings.NewReader("{}"), io.Discard), ExitNotFound},
	} {
		if Code(tc.err) != tc.want {
			t.Errorf("%s: %v, want code %d", name, tc.err, tc.want)
		}
	}
}

// Many members and many gangs have their order in one call, and what fails of
// one gang is its own.
func TestStopMany(t *testing.T) {
	dir := staged(t, "k1", "k2", "k3")
	const members = 100
	big := manifest.StopOrder{Key: "k2", Stops: map[int]manifest.Stop{}}
	for rank := range members {
		if err := os.MkdirAll(filepath.Join(dir, "g/k2/pods", strconv.Itoa(rank)), 0o700); err != nil {
			t.Fatal(err)
		}
		big.Stops[rank] = manifest.Stop{GraceSeconds: int64(rank)}
	}
	bad := order("k1", 0, manifest.Stop{GraceSeconds: 1})
	bad.Stops[9] = manifest.Stop{}
	var in, out bytes.Buffer
	for _, o := range []manifest.StopOrder{bad, big, order("gone", 0, manifest.Stop{}), order("k3", 0, manifest.Stop{})} {
		if err := json.NewEncoder(&in).Encode(o); err != nil {
			t.Fatal(err)
		}
	}
	if err := Stop(dir, &in, &out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for dec := json.NewDecoder(&out); dec.More(); {
		var a manifest.Answer
		if err := dec.Decode(&a); err != nil {
			t.Fatal(err)
		}
		got = append(got, fmt.Sprint(a.Key, " ", a.Code))
	}
	if want := []string{"k1 4", "k2 0", "gone 4", "k3 0"}; !slices.Equal(got, want) {
		t.Errorf("answers %q, want %q", got, want)
	}
	for rank := range members {
		data, err := os.ReadFile(filepath.Join(dir, "g/k2/pods", strconv.Itoa(rank), "ctl/stop"))
		if want := fmt.Sprintf(`{"graceSeconds":%d}`, rank); err != nil || string(data) != want {
			t.Errorf("rank %d: %s, %v", rank, data, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "g/k1/pods/0/ctl/stop")); err != nil {
		t.Errorf("the member beside the missing one has no order: %v", err)
	}
}
