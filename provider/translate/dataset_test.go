package translate_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// TestDatasetPaths: containers find what the gang reads by variables; what is not a
// path is left out.
func TestDatasetPaths(t *testing.T) {
	for text, want := range map[string]map[string]string{
		`{"image-net.v2":"/data/in","b":"/b c\"$(id)"}`: {"ISTHMUS_DATASET_IMAGE_NET_V2": "/data/in", "ISTHMUS_DATASET_B": `/b c"$(id)`},
		`{"a":"relative","b":"/x\u0000y","c\n":"/c"}`:   {},
		`["/a"]`: {},
		``:       {},
	} {
		p := newPod(0)
		p.Annotations[wellknown.DatasetPaths] = text
		out, err := translate.Gang(input(p))
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]string{}
		for _, v := range out.Pods[0].Env["main"] {
			if strings.HasPrefix(v.Name, "ISTHMUS_DATASET_") {
				got[v.Name] = string(v.Value)
			}
		}
		if asJSON(t, got) != asJSON(t, want) {
			t.Errorf("%s gives %v, want %v", text, got, want)
		}
	}
}
