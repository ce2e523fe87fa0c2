package backends

import (
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func valid() JobSpec {
	return JobSpec{
		Key: "g0123456789abcd", Owner: "cluster-a", User: "alice", Partition: "gpu", Account: "chem",
		Constraint: "a100&nvlink", Walltime: time.Hour, Grace: 30 * time.Second, WorkDir: "/shared/a b/g/k",
		Components: []Component{{Tasks: 2, CPUs: 4, MemoryMiB: 1024, GPUs: map[string]int64{"a100": 2}}},
	}
}

func TestValidateAccepts(t *testing.T) {
	for name, mutate := range map[string]func(*JobSpec){
		"as it is":              func(*JobSpec) {},
		"batch system defaults": func(s *JobSpec) { s.Partition, s.Account, s.Constraint, s.Walltime, s.Grace = "", "", "", 0, 0 },
		"one letter key":        func(s *JobSpec) { s.Key = "a" },
		"untyped GPU":           func(s *JobSpec) { s.Components[0].GPUs = map[string]int64{"": 1} },
		"quotes in the path":    func(s *JobSpec) { s.WorkDir = `/s/it's "$HOME" %j \n` },
		"unicode path":          func(s *JobSpec) { s.WorkDir = "/s/東京" },
		"largest gang":          func(s *JobSpec) { s.Components[0].Tasks = MaxTasks },
	} {
		t.Run(name, func(t *testing.T) {
			s := valid()
			mutate(&s)
			if err := s.Validate(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestValidateRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		mutate func(*JobSpec)
		field  string
	}{
		"empty key":         {func(s *JobSpec) { s.Key = "" }, "key"},
		"long key":          {func(s *JobSpec) { s.Key = "a123456789012345" }, "key"},
		"key with a digit":  {func(s *JobSpec) { s.Key = "1a" }, "key"},
		"key with a dash":   {func(s *JobSpec) { s.Key = "a-b" }, "key"},
		"upper-case key":    {func(s *JobSpec) { s.Key = "Ab" }, "key"},
		"empty owner":       {func(s *JobSpec) { s.Owner = "" }, "owner"},
		"owner with dot":    {func(s *JobSpec) { s.Owner = "a.b" }, "owner"},
		"owner an option":   {func(s *JobSpec) { s.Owner = "-a" }, "owner"},
		"long owner":        {func(s *JobSpec) { s.Owner = strings.Repeat("a", 64) }, "owner"},
		"empty user":        {func(s *JobSpec) { s.User = "" }, "user"},
		"root":              {func(s *JobSpec) { s.User = "root" }, "user"},
		"uid of root":       {func(s *JobSpec) { s.User = "0" }, "user"},
		"user with colon":   {func(s *JobSpec) { s.User = "a:b" }, "user"},
		"user an option":    {func(s *JobSpec) { s.User = "-u" }, "user"},
		"partition option":  {func(s *JobSpec) { s.Partition = "--uid=0" }, "partition"},
		"account newline":   {func(s *JobSpec) { s.Account = "a\nb" }, "account"},
		"qos NUL":           {func(s *JobSpec) { s.QOS = "a\x00b" }, "qos"},
		"constraint DEL":    {func(s *JobSpec) { s.Constraint = "a\x7f" }, "constraint"},
		"constraint C1":     {func(s *JobSpec) { s.Constraint = "a\u0085b" }, "constraint"},
		"reservation long":  {func(s *JobSpec) { s.Reservation = strings.Repeat("r", 256) }, "reservation"},
		"not UTF-8":         {func(s *JobSpec) { s.Reservation = "a\xff" }, "reservation"},
		"negative walltime": {func(s *JobSpec) { s.Walltime = -1 }, "walltime"},
		"endless walltime":  {func(s *JobSpec) { s.Walltime = MaxWalltime + 1 }, "walltime"},
		"negative grace":    {func(s *JobSpec) { s.Grace = -1 }, "grace"},
		"relative dir":      {func(s *JobSpec) { s.WorkDir = "a/b" }, "workDir"},
		"empty dir":         {func(s *JobSpec) { s.WorkDir = "" }, "workDir"},
		"dir with dots":     {func(s *JobSpec) { s.WorkDir = "/a/../b" }, "workDir"},
		"trailing slash":    {func(s *JobSpec) { s.WorkDir = "/a/" }, "workDir"},
		"root dir":          {func(s *JobSpec) { s.WorkDir = "/" }, "workDir"},
		"newline in dir":    {func(s *JobSpec) { s.WorkDir = "/a\nb" }, "workDir"},
		"licence option":    {func(s *JobSpec) { s.Licenses = map[string]int64{"-a": 1} }, "licenses"},
		"licence list":      {func(s *JobSpec) { s.Licenses = map[string]int64{"a:1,b": 1} }, "licenses"},
		"no licence of it":  {func(s *JobSpec) { s.Licenses = map[string]int64{"a": 0} }, "licenses"},
		"negative switches": {func(s *JobSpec) { s.Switches = -1 }, "switches"},
		"endless switches":  {func(s *JobSpec) { s.SwitchesWait = MaxSwitchesWait + 1 }, "switchesWait"},
		"no components":     {func(s *JobSpec) { s.Components = nil }, "components"},
		"many components":   {func(s *JobSpec) { s.Components = make([]Component, MaxComponents+1) }, "components"},
		"no tasks":          {func(s *JobSpec) { s.Components[0].Tasks = 0 }, "components[0].tasks"},
		"no cpus":           {func(s *JobSpec) { s.Components[0].CPUs = 0 }, "components[0].cpus"},
		"negative memory":   {func(s *JobSpec) { s.Components[0].MemoryMiB = -1 }, "components[0].memoryMiB"},
		"negative gpus":     {func(s *JobSpec) { s.Components[0].GPUs["a100"] = -1 }, "components[0].gpus"},
		"gpu list":          {func(s *JobSpec) { s.Components[0].GPUs["a:1,b"] = 1 }, "components[0].gpus"},
		"too many in all": {func(s *JobSpec) {
			s.Components = []Component{{Tasks: MaxTasks, CPUs: 1}, {Tasks: 1, CPUs: 1}}
		}, "components"},
		"memory in all": {func(s *JobSpec) {
			s.Components = []Component{{Tasks: MaxTasks, CPUs: 1, MemoryMiB: MaxMemoryMiB}}
		}, "components"},
	} {
		t.Run(name, func(t *testing.T) {
			s := valid()
			c.mutate(&s)
			err := s.Validate()
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.HasPrefix(err.Error(), c.field+":") {
				t.Fatalf("the error does not start with the field %s: %v", c.field, err)
			}
			if strings.Contains(err.Error(), "\x00") {
				t.Fatalf("the error repeats a control character: %q", err)
			}
		})
	}
}

func TestValidateNamesEveryField(t *testing.T) {
	s := valid()
	s.Key, s.User, s.Components[0].CPUs = "", "root", 0
	err := s.Validate()
	for _, field := range []string{"key:", "user:", "components[0].cpus:"} {
		if err == nil || !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

// What Validate accepts can be put on a command line and on one line of text.
func TestValidateAcceptsOnlySafeText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := valid()
		s.Partition = rapid.String().Draw(t, "partition")
		s.Account = string(rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(t, "account"))
		s.WorkDir = "/" + rapid.String().Draw(t, "dir")
		s.Key = Key(rapid.StringOfN(rapid.RuneFrom([]rune("ab1-. \n")), 0, 18, -1).Draw(t, "key"))
		if s.Validate() != nil {
			return
		}
		for _, text := range []string{s.Partition, s.Account, s.WorkDir, string(s.Key)} {
			if strings.HasPrefix(text, "-") || strings.ContainsAny(text, "\x00\n\r\t\x1f") {
				t.Fatalf("accepted %q", text)
			}
		}
	})
}
