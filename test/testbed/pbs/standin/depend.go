package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Dependencies of type afterok, as PBS's manual has them: the job is held by the system
// until all jobs before it have ended with 0, and deleted when one of them ends in
// another way or is not known. How a held one looks was recorded on a real OpenPBS
// 23.06.06; which substate a deleted one has was not. Torque's differ where its manual
// says so: what comes after a job that is not known is held by its user's hold.

// afterOK reads the value of -W: the jobs before, without other attributes.
func (s *server) afterOK(value string) ([]string, *fault) {
	list, ok := strings.CutPrefix(value, "depend=")
	if !ok {
		return nil, nil
	}
	ids, ok := strings.CutPrefix(list, "afterok:")
	if !ok || ids == "" || strings.Contains(ids, ",") {
		return nil, &fault{"illegal -W value", 2}
	}
	var out []string
	for id := range strings.SplitSeq(ids, ":") {
		if !strings.Contains(id, ".") {
			id += "." + s.Name
		}
		out = append(out, id)
	}
	return out, nil
}

// endedWell says that what comes after an ended job may start.
func (s *server) endedWell(j *job) bool {
	return j.exit != nil && *j.exit == 0 && (s.Torque || j.terminatedBy == "")
}

// depend puts a new job behind others.
func (s *server) depend(j *job, ids []string) {
	lost := false
	for _, id := range ids {
		first := s.find(id)
		switch {
		case first == nil && s.Torque:
			j.holds += "u" // and is forgotten
		case first == nil, first.ended() && !s.endedWell(first) && !s.Torque:
			lost = true
		case first.ended() && s.endedWell(first):
		default:
			j.after = append(j.after, first)
			if !first.ended() {
				first.before = append(first.before, j)
			}
		}
	}
	switch {
	case lost:
		s.abort(j, "Dependency request for job rejected by "+s.Name)
	case len(j.after) > 0:
		j.holds += "s"
		j.state, j.substate, j.etime = "H", 22, time.Time{}
	}
}

// settleAfter lets go, or deletes, what comes after a job that has ended.
func (s *server) settleAfter(j *job) {
	behind := j.before
	j.before = nil
	for _, next := range behind {
		if next.ended() {
			continue
		}
		if !s.endedWell(j) {
			s.abort(next, "Job deleted as result of dependency on job "+j.id())
			continue
		}
		next.after = slices.DeleteFunc(next.after, func(o *job) bool { return o == j })
		if len(next.after) > 0 {
			continue
		}
		next.holds = strings.ReplaceAll(next.holds, "s", "")
		if next.holds == "" {
			next.state, next.substate, next.etime = "Q", 10, time.Now()
		}
		next.touch()
	}
}

// abort ends a job that never ran.
func (s *server) abort(j *job, why string) {
	if s.Torque {
		code := 271
		j.exit, j.comment = &code, why
	}
	s.finish(j)
}

// dependText is the attribute depend.
func (j *job) dependText() string {
	var parts []string
	for _, side := range []struct {
		name string
		jobs []*job
	}{{"afterok", j.after}, {"beforeok", j.before}} {
		if len(side.jobs) == 0 {
			continue
		}
		text := side.name
		for _, o := range side.jobs {
			text += fmt.Sprintf(":%s@%s", o.id(), o.server)
		}
		parts = append(parts, text)
	}
	return strings.Join(parts, ",")
}
