package translate_test

import (
	"encoding/json"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/staging"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// FuzzPod gives translate whatever an API server could hold: it never panics,
// and what it accepts can be submitted, staged and read back as it was meant.
func FuzzPod(f *testing.F) {
	for _, p := range []*corev1.Pod{newPod(0), richPod(), tokenPod()} {
		seed, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed, true)
	}
	f.Fuzz(func(t *testing.T, data []byte, tokens bool) {
		var p corev1.Pod
		if json.Unmarshal(data, &p) != nil {
			return
		}
		in := tokenInput(&p)
		in.Account.ServiceAccountTokens = tokens
		in.Members[0].Secrets = objects(input(&p)).Members[0].Secrets
		out, err := translate.Gang(in)
		if err != nil {
			if _, ok := err.(*translate.Refusal); !ok { //nolint:errorlint // the contract is the very type
				t.Fatalf("error %T: %v", err, err)
			}
			return
		}
		if err := out.Spec.Validate(); err != nil {
			t.Fatalf("accepted, but no job: %v", err)
		}
		if _, err := staging.Archive(out); err != nil {
			t.Fatalf("accepted, but cannot be staged: %v", err)
		}
		if len(out.Pods) != 1 || len(out.Gang.Members) != 1 || out.Gang.Members[0].UID != string(p.UID) {
			t.Fatalf("members %+v", out.Gang.Members)
		}
		text, err := json.Marshal(out.Pods[0])
		if err != nil {
			t.Fatal(err)
		}
		var back manifest.Pod
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatalf("the runner cannot read it: %v", err)
		}
		for name, env := range back.Env {
			for i, v := range env {
				if sent := out.Pods[0].Env[name][i]; v.Name != sent.Name || string(v.Value) != string(sent.Value) {
					t.Fatalf("variable %q became %q", sent.Name, v.Name)
				}
			}
		}
		for volume, files := range out.Files[0] {
			for name, file := range files {
				if file.Token && (!tokens || file.Mode != 0o600) {
					t.Fatalf("token %s/%s: mode %o, allowed %v", volume, name, file.Mode, tokens)
				}
			}
		}
		// A pod that lives gets the same volumes again.
		fresh, err := translate.Contents(in, translate.Member{
			Pod: translate.ContentsOnly(&p), ConfigMaps: in.Members[0].ConfigMaps, Secrets: in.Members[0].Secrets, Tokens: in.Members[0].Tokens, RenewAt: in.Members[0].RenewAt,
		})
		if err != nil || fresh.Update.Contents.Digest != out.Pods[0].Contents.Digest {
			t.Fatalf("contents anew: %v, %+v, want %+v", err, fresh.Update.Contents, out.Pods[0].Contents)
		}
		if _, err := staging.UpdateArchive(map[int]translate.Refresh{0: fresh}); err != nil {
			t.Fatalf("contents anew cannot be staged: %v", err)
		}
	})
}
