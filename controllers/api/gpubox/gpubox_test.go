package gpubox_test

import (
	"reflect"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
)

func TestParse(t *testing.T) {
	for text, want := range map[string]string{
		`{"version":1,"resource":"nvidia.com/gpu","gpus":[{"uuid":"a","memoryMiB":1,"mode":"mps","slots":2}]}`:    "",
		`{"version":1,"resource":"nvidia.com/gpu","gpus":[{"uuid":"a","mode":"exclusive","later":1}],"added":{}}`: "",
		`{`:                            "unexpected EOF",
		`{"version":2,"resource":"r"}`: "version is 2",
		`{"version":1}`:                "resource is empty",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"exclusive"},{"uuid":"a","mode":"exclusive"}]}`:                                              "gpus[1].uuid",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a,b","mode":"exclusive"}]}`:                                                                            "gpus[0].uuid",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"shared"}]}`:                                                                                 "gpus[0].mode",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"mps"}]}`:                                                                                    "gpus[0].slots",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"exclusive","memoryMiB":-1}]}`:                                                               "gpus[0].memoryMiB",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"mps","slots":1,"mixedTenants":true}]}`:                                                      "gpus[0].mixedTenants",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"exclusive","instances":[{"uuid":"b","resource":"m"}]}]}`:                                    "gpus[0].instances",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"mig","instances":[{"uuid":"a","resource":"m"}]}]}`:                                          "gpus[0].instances[0]",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"exclusive"}],"links":[{"a":0,"b":1}]}`:                                                      "links[0]",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"exclusive"},{"uuid":"b","mode":"exclusive"}],"links":[{"a":0,"b":1,"pcie":"near"}]}`:        "links[0]",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"exclusive"}],"fabrics":[{"gpus":[0,1],"nvlinks":1}]}`:                                       "fabrics[0]",
		`{"version":1,"resource":"r","gpus":[` + strings.TrimSuffix(strings.Repeat(`{},`, 65), ",") + `]}`:                                                   "gpus has 65",
		`{"version":1,"resource":"r","gpus":[{"uuid":"a","mode":"mig","instances":[` + strings.TrimSuffix(strings.Repeat(`{"uuid":"x"},`, 65), ",") + `]}]}`: "gpus[0].instances[0]",
		strings.Repeat(" ", 1<<19): "bytes, more than",
	} {
		b, err := gpubox.Parse(text)
		switch {
		case want == "" && err != nil, want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%.120s: %v, want %q", text, err, want)
		case err == nil:
			if again, err := gpubox.Parse(b.Format()); err != nil || !reflect.DeepEqual(again, b) {
				t.Errorf("%s: written and read again: %+v %v", text, again, err)
			}
		}
	}
}

// FuzzParse never panics, and what it accepts it reads again as the same.
func FuzzParse(f *testing.F) {
	f.Add(`{"version":1,"resource":"nvidia.com/gpu","gpus":[{"uuid":"a","mode":"mig","instances":[{"uuid":"b","resource":"m"}]}],"links":[],"fabrics":[{"gpus":[0],"nvlinks":3}]}`)
	f.Fuzz(func(t *testing.T, text string) {
		b, err := gpubox.Parse(text)
		if err != nil {
			return
		}
		if again, err := gpubox.Parse(b.Format()); err != nil || again.Format() != b.Format() {
			t.Fatalf("%q becomes %q: %v", text, again.Format(), err)
		}
	})
}
