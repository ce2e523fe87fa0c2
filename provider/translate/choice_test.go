package translate_test

import (
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// QOS and account are chosen alike.
func TestChoice(t *testing.T) {
	t.Run("qos", func(t *testing.T) {
		testChoice(t, wellknown.QOS, "allowedQOS", func(in *translate.Input, own string, allowed []string) {
			in.Account.QOS, in.Account.AllowedQOS = own, allowed
		}, func(out *translate.Output) string { return out.Spec.QOS })
	})
	t.Run("account", func(t *testing.T) {
		testChoice(t, wellknown.Account, "allowedAccounts", func(in *translate.Input, own string, allowed []string) {
			in.Account.Account, in.Account.AllowedAccounts = own, allowed
		}, func(out *translate.Output) string { return out.Spec.Account })
	})
}

func testChoice(t *testing.T, key, list string, allow func(*translate.Input, string, []string), got func(*translate.Output) string) {
	t.Helper()
	tests := map[string]struct {
		first, second string // annotations; "" is none
		want          string
		refused       string
	}{
		"none asks":         {want: "normal"},
		"one asks":          {first: "high", want: "high"},
		"both ask":          {first: "high", second: "high", want: "high"},
		"the account's":     {first: "normal", want: "normal"},
		"not allowed":       {first: "urgent", refused: list},
		"an option":         {first: "--flags", refused: list},
		"they do not agree": {first: "high", second: "low", refused: "one batch job"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			in := input(newPod(0), newPod(1))
			allow(&in, "normal", []string{"high", "low"})
			for i, q := range []string{tc.first, tc.second} {
				if q != "" {
					in.Members[i].Pod.Annotations = map[string]string{key: q}
				}
			}
			out, err := translate.Gang(in)
			if tc.refused != "" {
				if err == nil || !strings.Contains(err.Error(), tc.refused) || !strings.Contains(err.Error(), key) {
					t.Errorf("error %v, want one about %q", err, tc.refused)
				}
				return
			}
			if err != nil || got(&out) != tc.want {
				t.Errorf("%s %q, %v; want %q", key, got(&out), err, tc.want)
			}
		})
	}
}
