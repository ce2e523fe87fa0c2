package hypernode

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/equality"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"
)

// text is HyperNodes in lines: tier, name without its hash, members.
func text(hs []topology.HyperNode) string {
	var lines []string
	short := func(name string) string { return name[:strings.LastIndex(name, "-")] }
	for i := range hs {
		h := &hs[i]
		words := []string{fmt.Sprint(h.Spec.Tier), short(h.Name)}
		for _, m := range h.Spec.Members {
			switch {
			case m.Selector.LabelMatch != nil:
				words = append(words, fmt.Sprintf("%v%v", m.Selector.LabelMatch.MatchLabels, m.Selector.LabelMatch.MatchExpressions))
			case m.Type == topology.MemberTypeHyperNode:
				words = append(words, "+"+short(m.Selector.ExactMatch.Name))
			default:
				words = append(words, m.Selector.ExactMatch.Name)
			}
		}
		lines = append(lines, strings.Join(words, " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestFromLabels(t *testing.T) {
	t.Parallel()
	node := func(name string, values ...string) Node {
		n := Node{Name: name, Labels: map[string]string{"other": "x"}}
		for i, v := range values {
			if v != "" {
				n.Labels[[]string{"rack", "zone"}[i]] = v
			}
		}
		return n
	}
	nodes := []Node{node("a", "R1", "z1"), node("b", "R1", "z1"), node("c", "R2", "z1"), node("d", "R1", "z2"), node("e", "R9"), node("f", "", "z1"), node("g")}
	got := FromLabels(nodes, []string{"rack", "zone"})
	const want = `1 label-r1 map[rack:R1 zone:z1][]
1 label-r1 map[rack:R1 zone:z2][]
1 label-r2 map[rack:R2 zone:z1][]
1 label-r9 map[rack:R9][{zone DoesNotExist []}]
2 label-z1 +label-r1 +label-r2
2 label-z2 +label-r1`
	if text(got) != want {
		t.Errorf("got\n%s\nwant\n%s", text(got), want)
	}
	names := map[string]bool{}
	for i := range got {
		names[got[i].Name] = true
		if got[i].Labels[SourceLabel] != "label" || got[i].Spec.TierName != []string{"rack", "zone"}[got[i].Spec.Tier-1] {
			t.Errorf("%+v", got[i])
		}
	}
	if len(names) != len(got) {
		t.Errorf("names repeat: %v", names)
	}
	slices.Reverse(nodes)
	again := FromLabels(nodes, []string{"rack", "zone"})
	if !equality.Semantic.DeepEqual(again, got) {
		t.Error("the order of nodes matters")
	}
	if out := FromLabels(nodes, nil); len(out) != 0 {
		t.Errorf("without labels: %v", out)
	}
	for want, levels := range map[string][]string{"given twice": {"a", "a"}, "no key of a label": {"a b"}} {
		if err := CheckLevels(levels); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", levels, err)
		}
	}
}

func TestFromSlurm(t *testing.T) {
	t.Parallel()
	nodes := []Node{{Name: "tux0"}, {Name: "tux1.example.org"}, {Name: "tux5"}, {Name: "big7"}}
	for name, c := range map[string]struct{ text, want string }{
		"topology.conf": {"# a tree\nSwitchName=s0 Nodes=tux[0-2] LinkSpeed=10\nswitchname=S1 nodes=tux[3-5],absent # comment\nSwitchName=s2 \\\n Switches=s0,S1\nSwitchName=none Nodes=cold[1-9]\nSwitchName=s3 Switches=s2,none Nodes=BIG7\n",
			"1 slurm-s0 tux0 tux1.example.org\n1 slurm-s1 tux5\n2 slurm-s2 +slurm-s0 +slurm-s1\n3 slurm-s3 +slurm-s2 big7"},
		"scontrol": {"SwitchName=s0 Level=0 LinkSpeed=1 Nodes=tux[0-1]\nSwitchName=top Level=1 LinkSpeed=1 Nodes=tux[0-5] Switches=s0\n",
			"1 slurm-s0 tux0 tux1.example.org\n2 slurm-top +slurm-s0 tux0 tux1.example.org tux5"},
		"blocks":  {"BlockName=b1 Nodes=tux[0-1]\nBlockSizes=2\n", "1 slurm-b1 tux0 tux1.example.org"},
		"nothing": {"\n#\n", ""},
	} {
		s, err := ParseSlurm(c.text)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := text(s.HyperNodes(nodes)); got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
	}
	for want, text := range map[string]string{
		"line 2: Nodes: ":               "SwitchName=a\nSwitchName=s0 Nodes=tux[0-",
		"line 2: switch s0 is there tw": "SwitchName=s0 Nodes=a\nSwitchName=s0 Nodes=b",
		"no switch is named s9":         "SwitchName=s0 Switches=s9",
		"in a circle":                   "SwitchName=a Switches=b\nSwitchName=b Switches=a",
		"too many host names":           "SwitchName=a Nodes=n[1-999999999]",
	} {
		if _, err := ParseSlurm(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzParseSlurm(f *testing.F) {
	f.Add("SwitchName=s0 Nodes=tux[0-2]\nSwitchName=s2 Switches=s0")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseSlurm(text)
		if err != nil {
			return
		}
		for _, h := range s.HyperNodes([]Node{{Name: "tux0"}}) {
			if h.Spec.Tier < 1 || len(h.Spec.Members) == 0 {
				t.Errorf("%+v", h)
			}
		}
	})
}
