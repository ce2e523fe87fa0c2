package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// readRequest reads the -l options into chunks and Resource_List.
func (s *server) readRequest(j *job, lists []string) *fault {
	selected, wall := "", s.queue(j.queue).DefaultWalltime
	nodes := ""
	var jobMemory int64
	for _, list := range lists {
		for _, item := range strings.Split(list, ",") {
			name, value, _ := strings.Cut(item, "=")
			switch name {
			case "select":
				if s.Torque {
					return &fault{"submit error (Unknown resource type  REJHOST=" + s.Name + " MSG=cannot find resource select)", 15035 & 0xff}
				}
				selected = value
			case "place":
				j.place = value
			case "walltime":
				wall = value
			case "nodes":
				nodes = value
			case "mem":
				n, err := kilobytes(value)
				if err != nil {
					return &fault{"Illegal attribute or resource value", 15014 & 0xff}
				}
				jobMemory = n
			case "qos", "advres", "ncpus":
			default:
				return &fault{"Unknown resource: " + name, 187}
			}
		}
	}
	var f *fault
	switch {
	case s.Torque:
		if nodes == "" {
			nodes = "1:ppn=1"
		}
		j.chunks, f = s.readNodes(nodes, jobMemory)
		j.asked = append(j.asked, "nodes = "+nodes)
		if jobMemory > 0 {
			j.asked = append(j.asked, fmt.Sprintf("mem = %dkb", jobMemory))
		}
	default:
		if selected == "" {
			selected = "1:ncpus=1"
		}
		j.chunks, f = s.readSelect(selected)
	}
	if f != nil {
		return f
	}
	if wall != "" {
		total, err := seconds(wall)
		if err != nil {
			return &fault{"Illegal attribute or resource value Resource_List.walltime", 15014 & 0xff}
		}
		j.walltime = time.Duration(total) * time.Second
		if limit := s.queue(j.queue).MaxWalltime; limit != "" {
			if most, err := seconds(limit); err == nil && total > most {
				return &fault{"Job violates queue and/or server resource limits", 15036 & 0xff}
			}
		}
	}
	if !s.Torque {
		j.asked = totals(j.chunks, j.place, selected)
	}
	if wall != "" {
		j.asked = append(j.asked, "walltime = "+wall)
	}
	return nil
}

// totals is the Resource_List that a select stands for.
func totals(chunks []chunk, place, selected string) []string {
	var cpus, gpus, memory, count int64
	for _, c := range chunks {
		n := int64(c.n)
		cpus, gpus, memory, count = cpus+n*c.cpus, gpus+n*c.gpus, memory+n*c.memoryKB, count+n
	}
	var out []string
	if memory > 0 {
		out = append(out, "mem = "+sizeText(memory))
	}
	out = append(out, fmt.Sprintf("ncpus = %d", cpus))
	if gpus > 0 {
		out = append(out, fmt.Sprintf("ngpus = %d", gpus))
	}
	return append(out, fmt.Sprintf("nodect = %d", count), "place = "+place, "select = "+selected)
}

// sizeText writes kilobytes in the largest unit that has no fraction.
func sizeText(kb int64) string {
	units := []string{"kb", "mb", "gb", "tb"}
	at := 0
	for at < len(units)-1 && kb%1024 == 0 && kb > 0 {
		kb /= 1024
		at++
	}
	return strconv.FormatInt(kb, 10) + units[at]
}

func (s *server) readSelect(text string) ([]chunk, *fault) {
	var out []chunk
	for part := range strings.SplitSeq(text, "+") {
		c := chunk{n: 1, cpus: 1, resources: map[string]string{}, mpiprocs: 1}
		for i, item := range strings.Split(part, ":") {
			name, value, has := strings.Cut(item, "=")
			if i == 0 && !has {
				n, err := strconv.Atoi(item)
				if err != nil || n < 1 {
					return nil, &fault{"Illegal attribute or resource value Resource_List.select", 15014 & 0xff}
				}
				c.n = n
				continue
			}
			var err error
			switch name {
			case "ncpus":
				c.cpus, err = strconv.ParseInt(value, 10, 64)
			case "ngpus":
				c.gpus, err = strconv.ParseInt(value, 10, 64)
			case "mpiprocs":
				c.mpiprocs, err = strconv.Atoi(value)
			case "mem":
				c.memoryKB, err = kilobytes(value)
			default:
				if !slices.ContainsFunc(s.Hosts, func(h hostSpec) bool { return h.Resources[name] != "" }) && name != "host" {
					return nil, &fault{"Unknown resource: " + name, 187}
				}
				c.resources[name] = value
			}
			if err != nil {
				return nil, &fault{"Illegal attribute or resource value Resource_List.select", 15014 & 0xff}
			}
		}
		out = append(out, c)
	}
	return out, nil
}

func (s *server) readNodes(text string, jobMemory int64) ([]chunk, *fault) {
	var out []chunk
	total := int64(0)
	for part := range strings.SplitSeq(text, "+") {
		c := chunk{n: 1, cpus: 1, resources: map[string]string{}}
		for i, item := range strings.Split(part, ":") {
			name, value, has := strings.Cut(item, "=")
			var err error
			switch {
			case i == 0 && strings.Trim(item, "0123456789") == "":
				c.n, err = strconv.Atoi(item)
			case has && name == "ppn":
				c.cpus, err = strconv.ParseInt(value, 10, 64)
			case has && name == "gpus":
				c.gpus, err = strconv.ParseInt(value, 10, 64)
			case has:
				return nil, &fault{"submit error (Illegal attribute or resource value Resource_List.nodes)", 15014 & 0xff}
			default:
				known := slices.ContainsFunc(s.vnodes, func(v *vnode) bool { return v.name == item || slices.Contains(v.properties, item) })
				if !known {
					return nil, &fault{"submit error (Job exceeds queue resource limits MSG=cannot locate feasible nodes (nodes file is empty, all systems are busy, or no nodes have the requested feature))", 15036 & 0xff}
				}
				c.properties = append(c.properties, item)
			}
			if err != nil {
				return nil, &fault{"submit error (Illegal attribute or resource value Resource_List.nodes)", 15014 & 0xff}
			}
		}
		total += int64(c.n)
		out = append(out, c)
	}
	for i := range out {
		out[i].memoryKB = jobMemory / max(1, total)
	}
	return out, nil
}

func kilobytes(text string) (int64, error) {
	digits := strings.TrimRight(text, "kmgtbw")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil {
		return 0, err
	}
	switch text[len(digits):] {
	case "", "b":
		return n >> 10, nil
	case "kb":
		return n, nil
	case "mb":
		return n << 10, nil
	case "gb":
		return n << 20, nil
	case "tb":
		return n << 30, nil
	}
	return 0, fmt.Errorf("%q is not a size", text)
}

// seconds reads "[[hours:]minutes:]seconds".
func seconds(text string) (int64, error) {
	var total int64
	for part := range strings.SplitSeq(text, ":") {
		n, err := strconv.ParseInt(part, 10, 32)
		if err != nil {
			return 0, err
		}
		total = total*60 + n
	}
	return total, nil
}
