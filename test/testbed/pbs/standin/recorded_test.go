package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What is compared here was recorded on a real OpenPBS 23.06.06.

func TestFoldingIsAsRecorded(t *testing.T) {
	for _, c := range []struct{ name, value, want string }{
		{"Submit_arguments", "-h -N isth-9f3a2b -l select=1:ncpus=1 -l walltime=00:01:00 -o /home/pbsuser/out.txt -j oe hold.sh",
			"    Submit_arguments = -h -N isth-9f3a2b -l select=1:ncpus=1 -l walltime=00:01:\n\t00 -o /home/pbsuser/out.txt -j oe hold.sh\n"},
		{"exec_vnode", "(pbs[0]:ncpus=2:ngpus=1:mem=1048576kb)+(pbs[1]:ncpus=4:ngpus=8:mem=2097152kb)+(pbs[2]:ncpus=4:ngpus=8:mem=2097152kb)",
			"    exec_vnode = (pbs[0]:ncpus=2:ngpus=1:mem=1048576kb)+(pbs[1]:ncpus=4:ngpus=8\n\t:mem=2097152kb)+(pbs[2]:ncpus=4:ngpus=8:mem=2097152kb)\n"},
		{"Variable_List", "PBS_O_HOME=/home/pbsuser,PBS_O_LANG=C.UTF-8,PBS_O_INTERACTIVE_AUTH_METHOD=resvport,PBS_O_INTERACTIVE_ENCRYPT_METHOD=," +
			"PBS_O_WORKDIR=/home/pbsuser,PBS_O_SYSTEM=Linux,PBS_O_QUEUE=workq,PBS_O_HOST=pbs",
			"    Variable_List = PBS_O_HOME=/home/pbsuser,PBS_O_LANG=C.UTF-8,\n\tPBS_O_INTERACTIVE_AUTH_METHOD=resvport,\n" +
				"\tPBS_O_INTERACTIVE_ENCRYPT_METHOD=,PBS_O_WORKDIR=/home/pbsuser,\n\tPBS_O_SYSTEM=Linux,PBS_O_QUEUE=workq,PBS_O_HOST=pbs\n"},
		{"comment", "Job run at Tue Nov 24 at 03:19 on (pbs[0]:ncpus=2:ngpus=1:mem=1048576kb)+(pbs[1]:ncpus=4:ngpus=8:mem=2097152kb)+(pbs[2]:ncpus=4:ngpus=8:mem=2097152kb) and finished",
			"    comment = Job run at Tue Nov 24 at 03:19 on (pbs[0]:ncpus=2:ngpus=1:mem=104\n" +
				"\t8576kb)+(pbs[1]:ncpus=4:ngpus=8:mem=2097152kb)+(pbs[2]:ncpus=4:ngpus=8:\n\tmem=2097152kb) and finished\n"},
	} {
		w := &writer{indent: "    "}
		w.attr(c.name, c.value)
		if got := w.String(); got != c.want {
			t.Errorf("%s is folded\n%q, recorded was\n%q", c.name, got, c.want)
		}
		w = &writer{indent: "    ", wide: true}
		if w.attr(c.name, c.value); strings.Count(w.String(), "\n") != 1 {
			t.Errorf("%s is folded although wide: %q", c.name, w.String())
		}
	}
}

func testServer(t *testing.T, text string) *server {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := newServer(dir)
	if err != nil {
		t.Fatal(err)
	}
	// Nothing starts: these tests are about words.
	s.ended = true
	return s
}

const oneHost = `"hosts":[{"name":"pbs","vnodes":3,"cpus":32,"memoryMiB":131072,"gpus":8}],"queues":[{"name":"workq"}]`

func ask(s *server, line string) reply {
	words := strings.Fields(line)
	env := map[string]string{"HOME": "/home/pbsuser", "LANG": "C.UTF-8"}
	if words[0] == "qstat" {
		env["TZ"] = "UTC"
	}
	return s.do(&request{Name: words[0], Args: words[1:], uid: 4242, user: "pbsuser", Dir: "/home/pbsuser", Env: env})
}

func TestWordsAndCodesAreAsRecorded(t *testing.T) {
	s := testServer(t, `{"history":true,`+oneHost+`}`)
	for _, c := range []struct {
		line, out, err string
		code           int
	}{
		{"qstat -f 99999", "", "qstat: Unknown Job Id 99999.pbs\n", 153},
		{"qdel 99999", "", "qdel: Unknown Job Id 99999.pbs\n", 153},
		{"qsub -l select=1:bogus=1 ok.sh", "", "qsub: Unknown resource: bogus\n", 187},
		{"qsub -q nosuch ok.sh", "", "qsub: Unknown queue\n", 170},
		{"qsub -N " + strings.Repeat("a", 300) + " hold.sh", "", "qsub: Job name is too long \n", 2},
		{"qsub -h -N isth-9f3a2b -l select=1:ncpus=1 -l walltime=00:01:00 hold.sh", "0.pbs\n", "", 0},
		{"qselect -N isth-9f3a2b -u pbsuser", "0.pbs\n", "", 0},
		{"qrls 0.pbs", "", "", 0},
		{"qrls 0.pbs", "", "", 0},
		{"qdel 0.pbs", "", "", 0},
		{"qselect -N isth-9f3a2b -u pbsuser", "", "", 0},
		{"qselect -x -N isth-9f3a2b -u pbsuser", "0.pbs\n", "", 0},
		{"qdel 0.pbs", "", "qdel: Job has finished 0.pbs\n", 35},
		{"qstat -f 0.pbs", "", "qstat: 0.pbs Job has finished, use -x or -H to obtain historical job information\n", 35},
		{"qsub -J 0-2 -N arr hold.sh", "1[].pbs\n", "", 0},
	} {
		if got := ask(s, c.line); got.Out != c.out || got.Err != c.err || got.Code != c.code {
			t.Errorf("%.60s: %q, %q, %d; recorded was %q, %q, %d", c.line, got.Out, got.Err, got.Code, c.out, c.err, c.code)
		}
	}
	if got := s.do(&request{Name: "qsub", Args: []string{"-N", "has space"}, uid: 4242}); got.Code != 2 || !strings.HasPrefix(got.Err, "qsub: illegal -N value\nusage: qsub [-a date_time]") {
		t.Errorf("a name with a blank: %+v", got)
	}
	s.History = false
	if got := ask(s, "qstat -x -f 21.pbs"); got.Err != "qstat: PBS is not configured to maintain job history 21.pbs\n" || got.Code != 0 {
		t.Errorf("without history: %+v", got)
	}
	for name, want := range map[string]struct {
		text string
		code int
	}{
		"qstat":    {"Connection refused\nqstat: cannot connect to server pbs (errno=15010)\n", 255},
		"qsub":     {"Connection refused\nqsub: cannot connect to server pbs (errno=15010)\n", 162},
		"pbsnodes": {"Connection refused\npbsnodes: cannot connect to server pbs, error=15010\n", 1},
		"qdel":     {"Connection refused\nCouldn't connect to cluster: pbs\n", 162},
	} {
		if text, code := refusedBy(name, "pbs"); text != want.text || code != want.code {
			t.Errorf("%s without a server: %q, %d", name, text, code)
		}
	}
}

// The lines of a held job, in the order in which a real server gives them.
func TestHeldJobIsAsRecorded(t *testing.T) {
	s := testServer(t, `{"history":true,`+oneHost+`}`)
	s.next = 9
	if got := ask(s, "qsub -h -N isth-9f3a2b -l select=1:ncpus=1 -l walltime=00:01:00 -o /home/pbsuser/out.txt -j oe hold.sh"); got.Out != "9.pbs\n" {
		t.Fatalf("%+v", got)
	}
	at := time.Date(2026, 11, 24, 3, 19, 13, 0, time.UTC)
	j := s.jobs[9]
	j.ctime, j.mtime, j.qtime = at, at, at
	want := `Job Id: 9.pbs
    Job_Name = isth-9f3a2b
    Job_Owner = pbsuser@pbs
    job_state = H
    queue = workq
    server = pbs
    Checkpoint = u
    ctime = Tue Nov 24 03:19:13 2026
    Error_Path = pbs:/home/pbsuser/isth-9f3a2b.e9
    Hold_Types = u
    Join_Path = oe
    Keep_Files = n
    Mail_Points = a
    mtime = Tue Nov 24 03:19:13 2026
    Output_Path = pbs:/home/pbsuser/out.txt
    Priority = 0
    qtime = Tue Nov 24 03:19:13 2026
    Rerunable = True
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = free
    Resource_List.select = 1:ncpus=1
    Resource_List.walltime = 00:01:00
    substate = 20
    Variable_List = PBS_O_HOME=/home/pbsuser,PBS_O_LANG=C.UTF-8,
	PBS_O_WORKDIR=/home/pbsuser,PBS_O_SYSTEM=Linux,PBS_O_QUEUE=workq,
	PBS_O_HOST=pbs
    Submit_arguments = -h -N isth-9f3a2b -l select=1:ncpus=1 -l walltime=00:01:
	00 -o /home/pbsuser/out.txt -j oe hold.sh
    project = _pbs_project_default
    Submit_Host = pbs

`
	if got := ask(s, "qstat -f 9.pbs").Out; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// A gang that asks for more than a host has, and one that waits for a while.
	s.ended = false
	for line, comment := range map[string]string{
		"qsub -N gang -l select=1:ncpus=2:ngpus=1:mem=1gb+3:ncpus=4:ngpus=8:mem=2gb -l place=scatter multi.sh": "Not Running: No available resources on nodes",
		"qsub -N two -l select=2:ncpus=4:ngpus=8 -l place=scatter multi.sh":                                    "Not Running: No available resources on nodes",
		"qsub -N big -l select=3:ncpus=40 multi.sh":                                                            "Can Never Run: Insufficient amount of resource: ncpus (R: 120 A: 96 T: 96)",
	} {
		id := strings.TrimSpace(ask(s, line).Out)
		if got := s.find(id).comment; got != comment {
			t.Errorf("%s waits with %q, want %q", line, got, comment)
		}
	}
}

// A job that waits for another, and one that waits no more.
func TestDependencyIsAsRecorded(t *testing.T) {
	s := testServer(t, `{"history":true,`+oneHost+`}`)
	s.next = 18
	if got := ask(s, "qsub -N d1 -l select=1:ncpus=1 hold.sh"); got.Out != "18.pbs\n" {
		t.Fatalf("%+v", got)
	}
	if got := ask(s, "qsub -N d2 -W depend=afterok:18.pbs -l select=1:ncpus=1 hold.sh"); got.Out != "19.pbs\n" {
		t.Fatalf("%+v", got)
	}
	at := time.Date(2026, 11, 24, 3, 20, 0, 0, time.UTC)
	j := s.jobs[19]
	j.ctime, j.mtime, j.qtime = at, at, at
	want := `Job Id: 19.pbs
    Job_Name = d2
    Job_Owner = pbsuser@pbs
    job_state = H
    queue = workq
    server = pbs
    Checkpoint = u
    ctime = Tue Nov 24 03:20:00 2026
    depend = afterok:18.pbs@pbs
    Error_Path = pbs:/home/pbsuser/d2.e19
    Hold_Types = s
    Join_Path = n
    Keep_Files = n
    Mail_Points = a
    mtime = Tue Nov 24 03:20:00 2026
    Output_Path = pbs:/home/pbsuser/d2.o19
    Priority = 0
    qtime = Tue Nov 24 03:20:00 2026
    Rerunable = True
    Resource_List.ncpus = 1
    Resource_List.nodect = 1
    Resource_List.place = free
    Resource_List.select = 1:ncpus=1
    substate = 22
    Variable_List = PBS_O_HOME=/home/pbsuser,PBS_O_LANG=C.UTF-8,
	PBS_O_WORKDIR=/home/pbsuser,PBS_O_SYSTEM=Linux,PBS_O_QUEUE=workq,
	PBS_O_HOST=pbs
    Submit_arguments = -N d2 -W depend=afterok:18.pbs -l select=1:ncpus=1 hold.
	sh
    project = _pbs_project_default
    Submit_Host = pbs

`
	if got := ask(s, "qstat -f 19.pbs").Out; got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	// By the manual: what comes after a job that is deleted is deleted, also through others.
	if got := ask(s, "qsub -W depend=afterok:19.pbs hold.sh"); got.Out != "20.pbs\n" {
		t.Fatalf("%+v", got)
	}
	ask(s, "qdel 18.pbs")
	for _, id := range []string{"19.pbs", "20.pbs"} {
		if got := s.find(id); got == nil || got.state != "F" || got.runs != 0 {
			t.Errorf("job %s behind one that was deleted is %+v", id, got)
		}
	}
	// What comes after one that is not known, or has ended badly, is deleted at once.
	for _, first := range []string{"99999.pbs", "18.pbs"} {
		id := strings.TrimSpace(ask(s, "qsub -W depend=afterok:"+first+" hold.sh").Out)
		if got := s.find(id); got == nil || got.state != "F" {
			t.Errorf("behind %s: %+v", first, got)
		}
	}
}

// JSON as recorded, with the flaw that a variable of digits becomes a number,
// and one that was reported of it: leading zeros stay.
func TestJSONIsAsRecorded(t *testing.T) {
	s := testServer(t, `{"history":true,`+oneHost+`}`)
	if got := ask(s, "qsub -h -N ok -l select=2:ncpus=4:ngpus=4:mem=2gb -l walltime=00:10:00 -v K=V,ISTHMUS_UID=1234,ZEROS=007 ok.sh"); got.Out != "0.pbs\n" {
		t.Fatalf("%+v", got)
	}
	got := ask(s, "qstat -f -F json 0.pbs").Out
	for _, want := range []string{
		"\t\"pbs_version\":\t\"23.06.06\",\n\t\"pbs_server\":\t\"pbs\",\n\t\"Jobs\":\t{\n\t\t\"0.pbs\":\t{\n\t\t\t\"Job_Name\":\t\"ok\",\n\t\t\t\"Job_Owner\":\t\"pbsuser@pbs\",\n",
		"\t\t\t\"Resource_List\":\t{\n\t\t\t\t\"mem\":\t\"4gb\",\n\t\t\t\t\"ncpus\":\t8,\n\t\t\t\t\"ngpus\":\t8,\n\t\t\t\t\"nodect\":\t2,\n\t\t\t\t\"place\":\t\"free\",\n" +
			"\t\t\t\t\"select\":\t\"2:ncpus=4:ngpus=4:mem=2gb\",\n\t\t\t\t\"walltime\":\t\"00:10:00\"\n\t\t\t},\n",
		"\t\t\t\t\"K\":\t\"V\",\n\t\t\t\t\"ISTHMUS_UID\":\t1234,\n", "\"ZEROS\":\t007,\n", "\t\t\t\"Submit_Host\":\t\"pbs\"\n\t\t}\n\t}\n}\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the answer lacks %q:\n%s", want, got)
		}
	}
	if got := ask(s, "qstat -f -F json 99999"); got.Err != "qstat: Unknown Job Id 99999.pbs\n" || got.Code != 153 || !strings.HasSuffix(got.Out, "\t\"pbs_server\":\t\"pbs\"\n}\n") {
		t.Errorf("an unknown job: %+v", got)
	}
}
