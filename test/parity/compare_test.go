package parity

import (
	"slices"
	"strings"
	"testing"
)

// All files can be read, and the table names only what is there.
func TestCases(t *testing.T) {
	cases, err := load("testdata", hostImage, "/witness")
	if err != nil {
		t.Fatal(err)
	}
	if len(cases) < 60 {
		t.Errorf("%d cases, want at least 60", len(cases))
	}
	for _, name := range sampled() {
		if !slices.ContainsFunc(cases, func(c testCase) bool { return c.name == name }) {
			t.Errorf("the case %q, to be run with images, is not there", name)
		}
	}
	for _, part := range guideParts {
		table, err := loadTable(part.file)
		if err != nil {
			t.Fatal(err)
		}
		for _, topic := range table {
			for _, d := range topic.Seen {
				if d.Case != anyCase && !slices.ContainsFunc(cases, func(c testCase) bool { return c.name == d.Case }) {
					t.Errorf("%s: topic %q names the case %q, which is not there", part.file, topic.What, d.Case)
				}
			}
		}
	}
}

func TestNormal(t *testing.T) {
	o := observation{
		"log":   "at 10.1.2.3, not 10.1.2.33; vm and vmx; 2026-01-02T03:04:05.678Z; " + strings.Repeat("0f", 32),
		"empty": "",
	}
	o.normal(map[string]string{"10.1.2.3": "podIP", "vm": "machine", "": "nothing"})
	if want := "at <podIP>, not 10.1.2.33; <machine> and vmx; <time>; <container>"; o["log"] != want {
		t.Errorf("normal gives %q, want %q", o["log"], want)
	}
	if _, ok := o["empty"]; ok {
		t.Error("an empty value stays")
	}
}

func TestCompare(t *testing.T) {
	kubelet := observation{"phase": "Succeeded", "main.log": "one\ntwo\nthree\n", "same": "x"}
	bridge := observation{"phase": "Succeeded", "main.log": "one\n2\nthree\n", "same": "x", "more": "y"}
	got := compare("c", kubelet, bridge)
	want := []difference{
		{Case: "c", Field: "main.log", Kubelet: "two\n", Bridge: "2\n"},
		{Case: "c", Field: "more", Bridge: "y"},
	}
	if !slices.Equal(got, want) {
		t.Errorf("compare gives %+v, want %+v", got, want)
	}
	got = compare("c", kubelet, observation{"phase": "Failed", "reason": refused, "message": "no"})
	if len(got) != 1 || got[0].Field != "refused" || got[0].Bridge != "no" || !strings.Contains(got[0].Kubelet, "phase: Succeeded") {
		t.Errorf("a refusal gives %+v", got)
	}
}
