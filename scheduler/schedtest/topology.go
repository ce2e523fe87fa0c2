package schedtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// hyperNodeCommand reads the options of a HyperNode:
//
//	tier=1 name=TIERNAME nodes=n1,n2 pattern=REGEX label.KEY=V hyper=h1,h2 hyperpattern=REGEX
func (w *World) hyperNodeCommand(name string, options []string) error {
	h := snapshot.HyperNodeSpec{Name: name, UID: name}
	for _, o := range options {
		key, value := option(o)
		label, isLabel := strings.CutPrefix(key, "label.")
		switch {
		case isLabel:
			h.Members = append(h.Members, snapshot.Member{Labels: &metav1.LabelSelector{MatchLabels: map[string]string{label: value}}})
		case key == "tier":
			n, err := strconv.ParseInt(value, 10, 32)
			if err != nil {
				return fmt.Errorf("hypernode: %s: %w", o, err)
			}
			h.Tier = n
		case key == "name":
			h.TierName = value
		case key == "nodes", key == "hyper":
			for _, n := range strings.Split(value, ",") {
				h.Members = append(h.Members, snapshot.Member{HyperNode: key == "hyper", Exact: n})
			}
		case key == "pattern", key == "hyperpattern":
			h.Members = append(h.Members, snapshot.Member{HyperNode: key == "hyperpattern", Pattern: value})
		default:
			return fmt.Errorf("hypernode: unknown option %q", o)
		}
	}
	for i := range w.HyperNodes {
		if w.HyperNodes[i].Name == name {
			w.HyperNodes[i] = h
			return nil
		}
	}
	w.HyperNodes = append(w.HyperNodes, h)
	return nil
}

// parseTopology reads hard, hard:2, hard:rack, soft:2 or key:LABEL.
func parseTopology(text string) (*snapshot.Topology, error) {
	mode, what, _ := strings.Cut(text, ":")
	t := &snapshot.Topology{Hard: mode != "soft", Tier: -1}
	n, err := strconv.ParseInt(what, 10, 32)
	switch {
	case mode == "key":
		t.Key = what
	case mode != "hard" && mode != "soft":
		return nil, fmt.Errorf("topology %q: want hard, soft or key", text)
	case what == "":
	case err == nil:
		t.Tier = n
	default:
		t.TierName = what
	}
	return t, nil
}

// parseSubGroup reads NAME,size=2,min=1,topology=hard:1.
func parseSubGroup(text string) (snapshot.SubGroup, error) {
	name, rest, _ := strings.Cut(text, ",")
	sub := snapshot.SubGroup{Name: name, Size: 1}
	for _, o := range strings.Split(rest, ",") {
		key, value := option(o)
		n, err := strconv.ParseInt(value, 10, 32)
		switch key {
		case "":
			err = nil
		case "size":
			sub.Size = n
		case "min":
			sub.Min = n
		case "topology":
			sub.Topology, err = parseTopology(value)
		default:
			err = fmt.Errorf("unknown option")
		}
		if err != nil {
			return sub, fmt.Errorf("sub-group %q: %w", o, err)
		}
	}
	return sub, nil
}

// partsCommand replaces the gang's policy of that name, or adds one.
func (w *World) partsCommand(group string, options []string) error {
	g := w.Gang(group)
	if g == nil || len(options) != 1 {
		return fmt.Errorf("parts must be GROUP POLICY,size=2,min=2 of a group that exists, is %q %q", group, options)
	}
	sub, err := parseSubGroup(options[0])
	if err != nil {
		return fmt.Errorf("parts: %w", err)
	}
	i := slices.IndexFunc(g.SubGroups, func(o snapshot.SubGroup) bool { return o.Name == sub.Name })
	if g.SubGroups = slices.Clone(g.SubGroups); i < 0 {
		g.SubGroups = append(g.SubGroups, sub)
	} else {
		g.SubGroups[i] = sub
	}
	return nil
}
