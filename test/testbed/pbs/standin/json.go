package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// pair is one attribute.
type pair struct{ name, value string }

// writeJSON writes jobs as "qstat -f -F json" does, with its flaws: what looks
// like a number is written as one, also where it has leading zeros, which is no
// JSON; so is a text that ends in a backslash, which ends no string.
func (s *server) writeJSON(w *strings.Builder, jobs []*job, r *request) {
	fmt.Fprintf(w, "{\n\t\"timestamp\":\t%d,\n\t\"pbs_version\":\t\"%s\",\n\t\"pbs_server\":\t\"%s\"", time.Now().Unix(), s.Version, s.Name)
	for i, j := range jobs {
		if i == 0 {
			w.WriteString(",\n\t\"Jobs\":\t{\n")
		} else {
			w.WriteString(",\n")
		}
		fmt.Fprintf(w, "\t\t\"%s\":\t{\n", j.id())
		text := &writer{indent: "    ", collect: true}
		s.write(text, j, r)
		s.members(w, text.pairs, j)
		w.WriteString("\t\t}")
		if i == len(jobs)-1 {
			w.WriteString("\n\t}")
		}
	}
	w.WriteString("\n}\n")
}

func (s *server) members(w *strings.Builder, pairs []pair, j *job) {
	var lines []string
	for i := 0; i < len(pairs); i++ {
		group, _, nested := strings.Cut(pairs[i].name, ".")
		switch {
		case pairs[i].name == "Variable_List":
			var vars []string
			for _, v := range j.vars {
				name, value, _ := strings.Cut(v, "=")
				vars = append(vars, fmt.Sprintf("\t\t\t\t\"%s\":\t%s", name, jsonValue(value)))
			}
			lines = append(lines, "\t\t\t\"Variable_List\":\t{\n"+strings.Join(vars, ",\n")+"\n\t\t\t}")
		case nested:
			var inner []string
			for ; i < len(pairs); i++ {
				name, ok := strings.CutPrefix(pairs[i].name, group+".")
				if !ok {
					break
				}
				inner = append(inner, fmt.Sprintf("\t\t\t\t\"%s\":\t%s", name, jsonValue(pairs[i].value)))
			}
			i--
			lines = append(lines, fmt.Sprintf("\t\t\t\"%s\":\t{\n%s\n\t\t\t}", group, strings.Join(inner, ",\n")))
		default:
			lines = append(lines, fmt.Sprintf("\t\t\t\"%s\":\t%s", pairs[i].name, jsonValue(pairs[i].value)))
		}
	}
	w.WriteString(strings.Join(lines, ",\n") + "\n")
}

func jsonValue(v string) string {
	if _, err := strconv.ParseFloat(v, 64); err == nil && strings.Trim(v, "0123456789.-") == "" {
		return v
	}
	return `"` + strings.ReplaceAll(v, `"`, `\"`) + `"`
}
