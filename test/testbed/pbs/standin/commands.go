package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Options that take a value, by command.
const qsubFlags = "aAcCeJjklmMNopPqrRSuvW"

// option is one option as given.
type option struct{ name, value string }

// options reads argv as getopt does; flags are those that take a value.
func options(args []string, flags string) (opts []option, rest []string) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return opts, append(rest, args[i+1:]...)
		}
		if len(a) < 2 || a[0] != '-' {
			return opts, append(rest, args[i:]...)
		}
		if strings.HasPrefix(a, "--") {
			opts = append(opts, option{name: a[2:]})
			continue
		}
		for k := 1; k < len(a); k++ {
			name := a[k : k+1]
			if !strings.Contains(flags, name) {
				opts = append(opts, option{name: name})
				continue
			}
			value := a[k+1:]
			if value == "" && i+1 < len(args) {
				i++
				value = args[i]
			}
			opts = append(opts, option{name, value})
			break
		}
	}
	return opts, rest
}

const qsubUsage = `usage: qsub [-a date_time] [-A account_string] [-c interval]
	[-C directive_prefix] [-e path] [-f ] [-h ] [-I [-X]] [-j oe|eo] [-J X-Y[:Z]]
	[-k keep] [-l resource_list] [-m mail_options] [-M user_list]
	[-N jobname] [-o path] [-p priority] [-P project] [-q queue] [-r y|n]
	[-R o|e|oe] [-S path] [-u user_list] [-W otherattributes=value...]
	[-v variable_list] [-V ] [-z] [script | -- command [arg1 ...]]
       qsub --version
`

// fault is a complaint with the code that the command ends with: the lowest
// byte of the server's error number.
type fault struct {
	text string
	code int
}

func (f *fault) reply(command string) reply {
	return reply{Err: command + ": " + f.text + "\n", Code: f.code}
}

func unknownJob(s *server, id string) *fault {
	if !strings.Contains(id, ".") {
		id += "." + s.Name
	}
	if s.Torque {
		return &fault{"Unknown Job Id Error " + id, 153}
	}
	return &fault{"Unknown Job Id " + id, 153}
}

func (s *server) qsub(r *request) reply {
	opts, rest := options(r.Args, qsubFlags)
	now := time.Now()
	j := &job{
		server: s.Name, user: r.user, uid: r.uid, name: "STDIN", state: "Q", substate: 10, place: "free", join: "n", keep: "n", mail: "a",
		rerun: true, project: "_pbs_project_default", script: r.Input, ctime: now, mtime: now, qtime: now, submitHost: s.Name,
		args: strings.Join(r.Args, " "),
	}
	if len(rest) > 0 {
		j.name = rest[0][strings.LastIndexByte(rest[0], '/')+1:]
	}
	var lists, after []string
	variables := ""
	for _, o := range opts {
		switch o.name {
		case "version":
			return s.versionReply()
		case "h":
			j.holds = "u"
		case "N":
			switch {
			case strings.ContainsAny(o.value, " \t\n"):
				return reply{Err: "qsub: illegal -N value\n" + qsubUsage, Code: 2}
			case len(o.value) > 230:
				return reply{Err: "qsub: Job name is too long \n", Code: 2}
			}
			j.name = o.value
		case "l":
			lists = append(lists, o.value)
		case "q":
			j.queue, _, _ = strings.Cut(o.value, "@")
		case "A":
			j.account = o.value
		case "P":
			j.project = o.value
		case "S":
			j.shell = o.value
		case "o":
			j.stdout = o.value
		case "e":
			j.stderr = o.value
		case "j":
			j.join = o.value
		case "k":
			j.keep = o.value
		case "m":
			j.mail = o.value
		case "r":
			j.rerun = o.value == "y"
		case "v":
			variables = o.value
		case "J":
			j.array = true
		case "W":
			ids, f := s.afterOK(o.value)
			if f != nil {
				return reply{Err: "qsub: " + f.text + "\n" + qsubUsage, Code: f.code}
			}
			after = append(after, ids...)
		case "a", "c", "C", "f", "M", "p", "R", "u", "z", "V":
		default:
			return reply{Err: "qsub: invalid option -- '" + o.name + "'\n" + qsubUsage, Code: 2}
		}
	}
	if j.uid == 0 {
		return (&fault{"Bad UID for job execution", 15023 & 0xff}).reply("qsub")
	}
	if f := s.chooseQueue(j); f != nil {
		return f.reply("qsub")
	}
	if f := s.readRequest(j, lists); f != nil {
		return f.reply("qsub")
	}
	if f := j.setVariables(r, variables, s.Name); f != nil {
		return f.reply("qsub")
	}
	j.seq = s.next
	s.next++
	if j.stdout == "" {
		j.stdout = fmt.Sprintf("%s/%s.o%d", r.Dir, j.name, j.seq)
	}
	if j.stderr == "" {
		j.stderr = fmt.Sprintf("%s/%s.e%d", r.Dir, j.name, j.seq)
	}
	switch {
	case j.array:
		j.state, j.substate = "B", 70
	case j.holds != "":
		j.state, j.substate = "H", 20
	default:
		j.etime = now
	}
	s.jobs[j.seq] = j
	s.depend(j, after)
	return reply{Out: j.id() + "\n"}
}

func (s *server) chooseQueue(j *job) *fault {
	if j.queue == "" {
		j.queue = s.Queues[0].Name
	}
	at := slices.IndexFunc(s.Queues, func(q queueSpec) bool { return q.Name == j.queue })
	switch {
	case at < 0:
		return &fault{"Unknown queue", 170}
	case s.Queues[at].Disabled:
		return &fault{"Queue is not enabled", 15030 & 0xff}
	}
	return nil
}

// setVariables makes the job's Variable_List.
func (j *job) setVariables(r *request, list, server string) *fault {
	for _, name := range []string{"HOME", "LANG", "LOGNAME", "PATH", "MAIL", "SHELL", "TZ"} {
		if v, ok := r.Env[name]; ok {
			j.vars = append(j.vars, "PBS_O_"+name+"="+v)
		}
	}
	j.vars = append(j.vars, "PBS_O_WORKDIR="+r.Dir, "PBS_O_SYSTEM=Linux")
	entry := ""
	add := func() *fault {
		if entry == "" {
			return nil
		}
		name, _, has := strings.Cut(entry, "=")
		if !has {
			v, ok := r.Env[name]
			if !ok {
				return &fault{"cannot send environment with the job", 1}
			}
			entry += "=" + v
		}
		if strings.ContainsAny(entry, "\n") {
			return &fault{"cannot send environment with the job", 1}
		}
		j.vars = append(j.vars, entry)
		entry = ""
		return nil
	}
	for i := 0; i < len(list); i++ {
		switch {
		case list[i] == '\\' && i+1 < len(list):
			i++
			entry += list[i : i+1]
		case list[i] == ',':
			if f := add(); f != nil {
				return f
			}
		default:
			entry += list[i : i+1]
		}
	}
	if f := add(); f != nil {
		return f
	}
	j.vars = append(j.vars, "PBS_O_QUEUE="+j.queue, "PBS_O_HOST="+server)
	return nil
}

// each does a thing to every job that is named, and gives the last complaint.
func (s *server) each(r *request, flags string, do func(j *job, opts []option) *fault) reply {
	opts, ids := options(r.Args, flags)
	for _, o := range opts {
		if o.name == "version" {
			return s.versionReply()
		}
	}
	var all reply
	for _, id := range ids {
		j := s.find(id)
		f := unknownJob(s, id)
		if j != nil {
			f = nil
			if r.uid != 0 && r.uid != j.uid {
				f = &fault{"Unauthorized Request  " + j.id(), 159}
			}
		}
		if f == nil {
			f = do(j, opts)
		}
		if f != nil {
			got := f.reply(r.Name)
			all.Err += got.Err
			all.Code = got.Code
		}
	}
	return all
}

func (s *server) finished(j *job) *fault {
	if s.Torque {
		return &fault{"Request invalid for state of job MSG=invalid state for job - COMPLETE " + j.id(), 170}
	}
	return &fault{"Job has finished " + j.id(), 35}
}

func (s *server) qdel(r *request) reply {
	if len(r.Args) == 0 {
		return reply{Err: "usage:\n\tqdel [-W force|suppress_email=X] [-x] job_identifier...\n\tqdel --version\n", Code: 2}
	}
	return s.each(r, "W", func(j *job, _ []option) *fault {
		if j.ended() {
			return s.finished(j)
		}
		by := r.user + "@" + s.Name
		first := j.terminatedBy == ""
		j.terminatedBy = by
		j.touch()
		if j.run == nil {
			s.finish(j)
			return nil
		}
		if first {
			j.comment += " and terminated by " + by
			if j.run.why == whyNone {
				j.run.why = whyDeleted
			}
			s.terminate(j.run)
		}
		return nil
	})
}

func (s *server) hold(r *request) reply {
	return s.each(r, "h", func(j *job, opts []option) *fault {
		types := "u"
		for _, o := range opts {
			if o.name == "h" {
				types = o.value
			}
		}
		if j.ended() {
			return s.finished(j)
		}
		if strings.ContainsAny(types, "os") && r.uid != 0 {
			return &fault{"Unauthorized Request  " + j.id(), 159}
		}
		for _, t := range []string{"u", "o", "s"} {
			if !strings.Contains(types, t) {
				continue
			}
			j.holds = strings.ReplaceAll(j.holds, t, "")
			if r.Name == "qhold" {
				j.holds += t
			}
		}
		switch {
		case r.Name == "qhold":
			j.comment = "Job held by " + r.user + " on " + stamp(time.Now(), r)
			if j.state == "Q" {
				j.state, j.substate = "H", 20
			}
		case j.state == "H" && j.holds == "":
			j.state, j.substate, j.etime = "Q", 10, time.Now()
			j.comment = ""
		}
		j.touch()
		return nil
	})
}

func (s *server) qrerun(r *request) reply {
	return s.each(r, "W", func(j *job, _ []option) *fault {
		switch {
		case r.uid != 0:
			return &fault{"Unauthorized Request  " + j.id(), 159}
		case j.run == nil:
			return &fault{"Request invalid for state of job " + j.id(), 15018 & 0xff}
		}
		j.run.why = whyRequeue
		run := j.run
		go run.kill()
		return nil
	})
}

func (s *server) qsig(r *request) reply {
	return s.each(r, "s", func(j *job, opts []option) *fault {
		sig := syscall.SIGTERM
		for _, o := range opts {
			if o.name != "s" {
				continue
			}
			switch strings.TrimPrefix(o.value, "SIG") {
			case "USR1":
				sig = syscall.SIGUSR1
			case "KILL":
				sig = syscall.SIGKILL
			case "TERM":
			case "suspend", "resume":
				if r.uid != 0 {
					return &fault{"Unauthorized Request  " + j.id(), 159}
				}
				if j.run != nil {
					j.suspend(o.value == "suspend")
				}
				return nil
			default:
				n, err := strconv.Atoi(o.value)
				if err != nil {
					return &fault{"Unknown signal " + j.id(), 15015 & 0xff}
				}
				sig = syscall.Signal(n)
			}
		}
		if j.run == nil {
			return &fault{"Request invalid for state of job " + j.id(), 15018 & 0xff}
		}
		j.run.signal(sig)
		return nil
	})
}

func (s *server) qselect(r *request) reply {
	opts, _ := options(r.Args, "aAclNpqrsuW")
	var out strings.Builder
	for _, j := range s.ordered() {
		fits, history := true, false
		for _, o := range opts {
			switch o.name {
			case "N":
				fits = fits && j.name == o.value
			case "u":
				fits = fits && slices.Contains(strings.Split(o.value, ","), j.user)
			case "s":
				fits = fits && strings.Contains(o.value, j.state)
			case "x":
				history = true
			}
		}
		if fits && (!j.ended() || history && s.History) {
			out.WriteString(j.id() + "\n")
		}
	}
	return reply{Out: out.String()}
}

func (s *server) versionReply() reply {
	if s.Torque {
		return reply{Err: "Version: " + s.Version + "\nCommit: unknown\n"}
	}
	return reply{Out: "pbs_version = " + s.Version + "\n"}
}

// stamp writes a time as the commands do, in the caller's zone.
func stamp(t time.Time, r *request) string {
	zone := time.Local
	if name, ok := r.Env["TZ"]; ok {
		if z, err := time.LoadLocation(name); err == nil {
			zone = z
		}
	}
	return t.In(zone).Format(time.ANSIC)
}
