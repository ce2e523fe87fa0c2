package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// lineLimit is the column at which the commands fold a line.
const lineLimit = 79

// writer writes objects in the form of "qstat -f".
type writer struct {
	strings.Builder
	indent string
	wide   bool
	// collect keeps the attributes as they are instead.
	collect bool
	pairs   []pair
}

// attr writes one attribute. A value that does not fit is folded, between the
// entries of a list where it has commas and anywhere else, and goes on after a
// tab.
func (w *writer) attr(name, value string) {
	if w.collect {
		w.pairs = append(w.pairs, pair{name, value})
		return
	}
	head := w.indent + name + " = "
	w.WriteString(head)
	if w.wide {
		w.WriteString(value + "\n")
		return
	}
	column, first := len(head), true
	for _, word := range strings.SplitAfter(value, ",") {
		if column+len(word) > lineLimit && !first {
			w.WriteString("\n\t")
			column = 8
		}
		first = false
		for _, c := range []byte(word) {
			if column == lineLimit {
				w.WriteString("\n\t")
				column = 8
			}
			w.WriteByte(c)
			column++
		}
	}
	w.WriteByte('\n')
}

func boolText(b bool) string {
	if b {
		return "True"
	}
	return "False"
}

// escape writes one variable as an entry of a list.
func escape(v string) string {
	return strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(v)
}

func (j *job) list() string {
	var out []string
	for _, v := range j.vars {
		out = append(out, escape(v))
	}
	return strings.Join(out, ",")
}

// write writes a job as qstat -f does.
func (s *server) write(w *writer, j *job, r *request) {
	at := func(t time.Time) string { return stamp(t, r) }
	w.WriteString("Job Id: " + j.id() + "\n")
	w.attr("Job_Name", j.name)
	w.attr("Job_Owner", j.user+"@"+s.Name)
	if !j.stime.IsZero() && j.state != "Q" && j.state != "H" {
		end := time.Now()
		if j.ended() {
			end = j.obit
		}
		ran := int64(end.Sub(j.stime).Seconds())
		if !s.Torque {
			w.attr("resources_used.cpupercent", "0")
		}
		w.attr("resources_used.cput", "00:00:00")
		w.attr("resources_used.mem", "0kb")
		if !s.Torque {
			var cpus int64
			for _, c := range j.chunks {
				cpus += int64(c.n) * c.cpus
			}
			w.attr("resources_used.ncpus", fmt.Sprint(cpus))
		}
		w.attr("resources_used.vmem", "0kb")
		w.attr("resources_used.walltime", fmt.Sprintf("%02d:%02d:%02d", ran/3600, ran/60%60, ran%60))
	}
	w.attr("job_state", j.state)
	w.attr("queue", j.queue)
	w.attr("server", s.Name)
	if j.account != "" {
		w.attr("Account_Name", j.account)
	}
	w.attr("Checkpoint", "u")
	w.attr("ctime", at(j.ctime))
	if text := j.dependText(); text != "" {
		w.attr("depend", text)
	}
	w.attr("Error_Path", s.Name+":"+j.stderr)
	if len(j.placed) > 0 {
		w.attr("exec_host", j.hostText(s.Torque))
		switch {
		case !s.Torque:
			w.attr("exec_vnode", j.vnodeText())
		case j.gpuText() != "":
			w.attr("exec_gpus", j.gpuText())
		}
	}
	holds := j.holds
	if holds == "" {
		holds = "n"
	}
	w.attr("Hold_Types", holds)
	w.attr("Join_Path", j.join)
	w.attr("Keep_Files", j.keep)
	w.attr("Mail_Points", j.mail)
	w.attr("mtime", at(j.mtime))
	w.attr("Output_Path", s.Name+":"+j.stdout)
	w.attr("Priority", "0")
	w.attr("qtime", at(j.qtime))
	w.attr("Rerunable", boolText(j.rerun))
	for _, line := range j.asked {
		name, value, _ := strings.Cut(line, " = ")
		w.attr("Resource_List."+name, value)
	}
	if s.Torque {
		s.writeTorque(w, j, at)
		return
	}
	if !j.stime.IsZero() {
		w.attr("stime", at(j.stime))
	}
	if !j.obit.IsZero() {
		w.attr("obittime", at(j.obit))
	}
	if j.session > 0 {
		w.attr("session_id", fmt.Sprint(j.session))
		w.attr("jobdir", "/")
	}
	w.attr("substate", fmt.Sprint(j.substate))
	w.attr("Variable_List", j.list())
	if j.comment != "" {
		w.attr("comment", j.comment)
	}
	if !j.etime.IsZero() {
		w.attr("etime", at(j.etime))
	}
	if j.runs > 0 {
		w.attr("run_count", fmt.Sprint(j.runs))
	}
	if j.exit != nil {
		w.attr("Stageout_status", "1")
		w.attr("Exit_status", fmt.Sprint(*j.exit))
	}
	w.attr("Submit_arguments", j.args)
	if !j.historyAt.IsZero() {
		w.attr("history_timestamp", fmt.Sprint(j.historyAt.Unix()))
	}
	if !j.estimated.IsZero() {
		w.attr("estimated.start_time", at(j.estimated))
	}
	if j.array {
		w.attr("array", "True")
	}
	w.attr("project", j.project)
	w.attr("Submit_Host", s.Name)
	w.WriteString("\n")
}

// writeTorque writes the rest of a job in Torque's names, by its manual.
func (s *server) writeTorque(w *writer, j *job, at func(time.Time) string) {
	if j.session > 0 {
		w.attr("session_id", fmt.Sprint(j.session))
	}
	w.attr("Variable_List", j.list())
	w.attr("euser", j.user)
	if j.comment != "" {
		w.attr("comment", j.comment)
	}
	if !j.etime.IsZero() {
		w.attr("etime", at(j.etime))
	}
	if j.exit != nil {
		w.attr("exit_status", fmt.Sprint(*j.exit))
	}
	w.attr("submit_args", j.args)
	if !j.stime.IsZero() {
		w.attr("start_time", at(j.stime))
		w.attr("start_count", fmt.Sprint(j.runs))
	}
	if j.ended() {
		w.attr("comp_time", at(j.historyAt))
	}
	w.attr("fault_tolerant", "False")
	w.attr("submit_host", s.Name)
	w.WriteString("\n")
}

func (s *server) qstat(r *request) reply {
	opts, ids := options(r.Args, "uFD")
	has := func(name string) bool {
		return slices.ContainsFunc(opts, func(o option) bool { return o.name == name })
	}
	w := &writer{indent: "    ", wide: has("w")}
	switch {
	case has("version"):
		return s.versionReply()
	case has("B"):
		s.writeServer(w)
		return reply{Out: w.String()}
	case has("Q"):
		s.writeQueues(w)
		return reply{Out: w.String()}
	case s.Torque && has("x"):
		return reply{Out: "<Data></Data>\n"} // XML, which is not what one wanted
	}
	history := has("x")
	if history && !s.History {
		complaint := "qstat: PBS is not configured to maintain job history"
		for _, id := range ids {
			complaint += " " + id
		}
		return reply{Err: complaint + "\n"} // and exits with 0
	}
	var all reply
	shown := s.ordered()
	if len(ids) > 0 {
		shown = nil
		for _, id := range ids {
			j := s.find(id)
			switch {
			case j == nil:
				f := unknownJob(s, id).reply("qstat")
				all.Err, all.Code = all.Err+f.Err, f.Code
			case j.ended() && !history && !s.Torque:
				all.Err += "qstat: " + j.id() + " Job has finished, use -x or -H to obtain historical job information\n"
				all.Code = 35
			default:
				shown = append(shown, j)
			}
		}
	}
	var listed []*job
	for _, j := range shown {
		if j.ended() && !history && !s.Torque || s.HideOthers && r.uid != 0 && r.uid != j.uid {
			continue
		}
		listed = append(listed, j)
		if has("f") {
			s.write(w, j, r)
			continue
		}
		if w.Len() == 0 {
			w.WriteString("Job id            Name             User              Time Use S Queue\n" +
				"----------------  ---------------- ----------------  -------- - -----\n")
		}
		used := "       0"
		if !j.stime.IsZero() {
			used = "00:00:00"
		}
		fmt.Fprintf(w, "%-17s %-16.16s %-17s %s %s %-16s\n", j.id(), j.name, j.user, used, j.state, j.queue)
	}
	all.Out = w.String()
	if slices.Contains(opts, option{"F", "json"}) {
		var text strings.Builder
		s.writeJSON(&text, listed, r)
		all.Out = text.String()
	}
	return all
}

func (s *server) counts(queue string) (total int, text string) {
	n := map[string]int{}
	for _, j := range s.jobs {
		if (queue == "" || j.queue == queue) && !j.ended() {
			n[j.state]++
			total++
		}
	}
	text = fmt.Sprintf("Transit:%d Queued:%d Held:%d Waiting:%d Running:%d Exiting:%d ", n["T"], n["Q"], n["H"], n["W"], n["R"], n["E"])
	if !s.Torque {
		text += fmt.Sprintf("Begun:%d ", n["B"])
	}
	return total, text
}

func (s *server) writeServer(w *writer) {
	total, counts := s.counts("")
	w.WriteString("Server: " + s.Name + "\n")
	w.attr("server_state", "Active")
	w.attr("server_host", s.Name)
	w.attr("scheduling", "True")
	w.attr("total_jobs", fmt.Sprint(total))
	w.attr("state_count", counts)
	w.attr("default_queue", s.Queues[0].Name)
	w.attr("log_events", "511")
	w.attr("query_other_jobs", boolText(!s.HideOthers))
	if s.Torque {
		w.attr("keep_completed", fmt.Sprint(s.KeepCompleted/1000))
		w.attr("pbs_version", s.Version)
		w.WriteString("\n")
		return
	}
	w.attr("resources_default.ncpus", "1")
	w.attr("default_chunk.ncpus", "1")
	w.attr("scheduler_iteration", "600")
	w.attr("flatuid", "True")
	w.attr("node_fail_requeue", "310")
	w.attr("pbs_version", s.Version)
	w.attr("eligible_time_enable", "False")
	w.attr("job_history_enable", boolText(s.History))
	w.WriteString("\n")
}

func (s *server) writeQueues(w *writer) {
	for _, q := range s.Queues {
		total, counts := s.counts(q.Name)
		w.WriteString("Queue: " + q.Name + "\n")
		kind := "Execution"
		if q.Route {
			kind = "Route"
		}
		w.attr("queue_type", kind)
		w.attr("total_jobs", fmt.Sprint(total))
		w.attr("state_count", counts)
		if q.MaxWalltime != "" {
			w.attr("resources_max.walltime", q.MaxWalltime)
		}
		if q.DefaultWalltime != "" {
			w.attr("resources_default.walltime", q.DefaultWalltime)
		}
		if len(q.Hosts) > 0 {
			if s.Torque {
				w.attr("resources_default.neednodes", q.Name)
			} else {
				w.attr("default_chunk.Qlist", q.Name)
			}
		}
		w.attr("enabled", boolText(!q.Disabled))
		w.attr("started", "True")
		w.WriteString("\n")
	}
}

func (s *server) pbsnodes(r *request) reply {
	opts, names := options(r.Args, "oCrF")
	for _, o := range opts {
		if o.name != "o" && o.name != "r" && o.name != "C" {
			continue
		}
		if r.uid != 0 {
			return reply{Err: "pbsnodes: Unauthorized Request \n", Code: 1}
		}
		for _, v := range s.vnodes {
			if v.host == o.value || slices.Contains(names, v.host) {
				v.offline, v.changed = o.name == "o", time.Now()
			}
		}
		return reply{}
	}
	w := &writer{indent: "     ", wide: true}
	for _, v := range s.vnodes {
		if s.Torque {
			s.writeTorqueNode(w, v)
		} else {
			s.writeVNode(w, v)
		}
	}
	return reply{Out: w.String()}
}

// on lists the jobs that hold a part of a vnode, and what they hold.
func (s *server) on(v *vnode) (jobs []string, used free, slots []string) {
	for _, j := range s.ordered() {
		if j.run == nil {
			continue
		}
		for _, p := range j.placed {
			if p.vnode != v {
				continue
			}
			if !slices.Contains(jobs, j.id()) {
				jobs = append(jobs, j.id())
			}
			used.cpus += p.chunk.cpus
			used.gpus += p.chunk.gpus
			used.memoryKB += p.chunk.memoryKB
			where := fmt.Sprint(p.slot)
			if p.chunk.cpus > 1 {
				where = fmt.Sprintf("%d-%d", p.slot, p.slot+int(p.chunk.cpus)-1)
			}
			slots = append(slots, where+"/"+j.id())
		}
	}
	return jobs, used, slots
}

func (v *vnode) state(used free) string {
	var words []string
	if v.offline {
		words = append(words, "offline")
	}
	if v.down {
		words = append(words, "down")
	}
	if len(words) > 0 {
		return strings.Join(words, ",")
	}
	if !v.natural && used.cpus >= v.cpus {
		return "job-busy"
	}
	return "free"
}

func (s *server) writeVNode(w *writer, v *vnode) {
	jobs, used, _ := s.on(v)
	w.WriteString(v.name + "\n")
	w.attr("Mom", v.host)
	w.attr("Port", "15002")
	w.attr("pbs_version", s.Version)
	w.attr("ntype", "PBS")
	w.attr("state", v.state(used))
	if len(jobs) > 0 {
		w.attr("jobs", strings.Join(jobs, ", "))
	}
	w.attr("resources_available.arch", "linux")
	w.attr("resources_available.host", v.host)
	cpus, gpus, memory := v.cpus, v.gpus, sizeText(v.memoryKB)
	if v.natural {
		cpus, gpus, memory = 0, 0, "0b"
	}
	w.attr("resources_available.mem", memory)
	w.attr("resources_available.ncpus", fmt.Sprint(cpus))
	w.attr("resources_available.ngpus", fmt.Sprint(gpus))
	var names []string
	for name := range v.resources {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		w.attr("resources_available."+name, v.resources[name])
	}
	w.attr("resources_available.vnode", v.name)
	if used.memoryKB > 0 {
		w.attr("resources_assigned.mem", fmt.Sprintf("%dkb", used.memoryKB))
	}
	if used.cpus > 0 {
		w.attr("resources_assigned.ncpus", fmt.Sprint(used.cpus))
	}
	if used.gpus > 0 {
		w.attr("resources_assigned.ngpus", fmt.Sprint(used.gpus))
	}
	w.attr("resv_enable", "True")
	w.attr("sharing", "default_shared")
	w.attr("license", "l")
	w.attr("last_state_change_time", stamp(v.changed, &request{}))
	w.WriteString("\n")
}

func (s *server) writeTorqueNode(w *writer, v *vnode) {
	_, used, slots := s.on(v)
	w.WriteString(v.name + "\n")
	state := v.state(used)
	if state == "job-busy" {
		state = "job-exclusive"
	}
	w.attr("state", state)
	w.attr("power_state", "Running")
	w.attr("np", fmt.Sprint(v.cpus))
	if len(v.properties) > 0 {
		w.attr("properties", strings.Join(v.properties, ","))
	}
	w.attr("ntype", "cluster")
	if len(slots) > 0 {
		w.attr("jobs", strings.Join(slots, ","))
	}
	w.attr("status", fmt.Sprintf("opsys=linux,physmem=%dkb,ncpus=%d,state=%s", v.memoryKB, v.cpus, state))
	w.attr("mom_service_port", "15002")
	w.attr("gpus", fmt.Sprint(v.gpus))
	w.WriteString("\n")
}
