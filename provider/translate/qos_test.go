package translate_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

func TestQOS(t *testing.T) {
	tests := map[string]struct {
		first, second string // annotations; "" is none
		want          string
		refused       string
	}{
		"none asks":         {want: "normal"},
		"one asks":          {first: "high", want: "high"},
		"both ask":          {first: "high", second: "high", want: "high"},
		"the account's":     {first: "normal", want: "normal"},
		"not allowed":       {first: "urgent", refused: "allowedQOS"},
		"an option":         {first: "--flags", refused: "allowedQOS"},
		"they do not agree": {first: "high", second: "low", refused: "one batch job"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := input(newPod(0), newPod(1))
			in.Account.QOS, in.Account.AllowedQOS = "normal", []string{"high", "low"}
			for i, q := range []string{tc.first, tc.second} {
				if q != "" {
					in.Members[i].Pod.Annotations = map[string]string{wellknown.QOS: q}
				}
			}
			out, err := translate.Gang(in)
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) || !strings.Contains(err.Error(), wellknown.QOS) {
					t.Errorf("error %v, want one about %q", err, tc.refused)
				}
				return
			}
			if err != nil || out.Spec.QOS != tc.want {
				t.Errorf("QOS %q, %v; want %q", out.Spec.QOS, err, tc.want)
			}
		})
	}
}
