package reference_test

import (
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image/reference"
)

const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

func TestParse(t *testing.T) {
	for in, want := range map[string]string{ // "" for refused
		"busybox":                            "docker.io/library/busybox:latest",
		"busybox:1.36":                       "docker.io/library/busybox:1.36",
		"team/app":                           "docker.io/team/app:latest",
		"docker.io/app":                      "docker.io/library/app:latest",
		"index.docker.io/library/app":        "docker.io/library/app:latest",
		"localhost/app":                      "localhost/app:latest",
		"localhost:5000/app:v1":              "localhost:5000/app:v1",
		"reg.example.com:443/a/b/c:v1.2-3_4": "reg.example.com:443/a/b/c:v1.2-3_4",
		"[::1]:5000/app":                     "[::1]:5000/app:latest",
		"app@" + digest:                      "docker.io/library/app@" + digest,
		"app:v1@" + digest:                   "docker.io/library/app:v1@" + digest,
		"oci-archive:/data/a.tar":            "oci-archive:/data/a.tar",
		"oci:/data/dir:v1":                   "oci:/data/dir:v1",
		"docker-archive:/data/a.tar":         "docker-archive:/data/a.tar",
		"":                                   "", "UPPER": "", "a//b": "", "a b": "", "app:": "", "app:-x": "", "app@sha256:12": "", "app@" + strings.ToUpper(digest): "",
		"-app": "", "app-": "", "a..b": "", "a___b": "", "reg.example.com:99999999/x": "", "http://x/y": "", "x/$(id)": "", "a\nb": "", "é": "",
		"oci:/": "", "oci:/a/../b": "", "oci:/a//b": "", "docker-archive:/a\n": "", "oci:/a:b/c": "", "../x": "", "docker-archive:../x": "",
		strings.Repeat("a", 300): "",
	} {
		got, err := reference.Parse(in)
		switch {
		case err != nil && want != "":
			t.Errorf("%q: %v", in, err)
		case err == nil && got.String() != want:
			t.Errorf("%q: %s, want %q", in, got, want)
		}
	}
}

func TestWithin(t *testing.T) {
	for p, want := range map[string]bool{"/a/b": true, "/a/b/c": true, "/a/bc": false, "/a": false, "/x/y": true} {
		if got := reference.Within(p, []string{"/a/b/", "/x"}); got != want {
			t.Errorf("%s: %v", p, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"busybox", "localhost:5000/a:b", "a@" + digest, "oci:/a/b:c", "x//y", "[::1]:1/a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, in string) {
		r, err := reference.Parse(in)
		if err != nil {
			return
		}
		again, err := reference.Parse(r.String())
		if err != nil || again != r {
			t.Fatalf("%q is %s, and that is %+v, %v", in, r, again, err)
		}
		if strings.ContainsAny(r.String(), "\x00\n") {
			t.Fatalf("%q has odd characters", r)
		}
		if r.Transport == "" {
			// The library that pulls must read it the same way.
			if _, err := name.ParseReference(r.String()); err != nil {
				t.Fatalf("%s: %v", r, err)
			}
		}
	})
}
