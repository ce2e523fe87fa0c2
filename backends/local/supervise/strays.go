package supervise

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"syscall"
	"time"

	"github.com/isthmus-hpc/isthmus/backends/local/jobdir"
)

// killRounds and killPause bound how long a pass waits for killed processes.
const (
	killRounds = 100
	killPause  = 20 * time.Millisecond
)

// killStrays kills what a job without supervisor left on this machine and tells
// how many processes are still there. They are known by the job's token in
// their environment, by the session of the batch script, and by descent from
// such a process. A process that shed all three, after its parents died, is missed.
func killStrays(j *jobdir.Job) (left int, err error) {
	program, known, err := jobdir.Program(j.Dir)
	if err != nil {
		return 0, err
	}
	session := 0
	if known {
		session, err = liveSession(program)
		if err != nil {
			return 0, err
		}
	}
	for range killRounds {
		strays, err := findStrays(j.Token, session)
		if err != nil || len(strays) == 0 {
			return 0, err
		}
		left = len(strays)
		for _, p := range strays {
			if err := p.Signal(syscall.SIGKILL); err != nil {
				return left, err
			}
		}
		<-time.After(killPause)
	}
	return left, nil
}

// liveSession gives the session number that the program led, or 0 when that
// number may since belong to somebody else. While any process of a session
// lives, its number is given to no new process; so if the number names a
// process now, it is the program itself, or the session is over.
func liveSession(program jobdir.Process) (int, error) {
	self, err := jobdir.Identify(os.Getpid())
	if err != nil {
		return 0, err
	}
	if self.Boot != program.Boot {
		return 0, nil
	}
	now, err := jobdir.ReadStat(program.PID)
	if err == nil && now.StartTicks != program.StartTicks {
		return 0, nil
	}
	return program.PID, nil
}

func findStrays(token string, session int) ([]jobdir.Process, error) {
	stats, err := processes()
	if err != nil {
		return nil, err
	}
	ours := map[int]bool{}
	mark := []byte(tokenVariable + "=" + token + "\x00")
	for pid, st := range stats {
		if st.Zombie || pid == os.Getpid() {
			continue
		}
		ours[pid] = session != 0 && st.Session == session || hasEnv(pid, mark)
	}
	// Children of ours are ours, to any depth.
	for more := true; more; {
		more = false
		for pid, st := range stats {
			if !ours[pid] && !st.Zombie && pid != os.Getpid() && ours[st.Parent] {
				ours[pid], more = true, true
			}
		}
	}
	var found []jobdir.Process
	for pid, yes := range ours {
		if !yes {
			continue
		}
		p, err := jobdir.Identify(pid)
		if err == nil && p.StartTicks == stats[pid].StartTicks {
			found = append(found, p)
		}
	}
	return found, nil
}

// processes reads the state of every process of this machine.
func processes() (map[int]jobdir.Stat, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	names, err := dir.Readdirnames(-1)
	if err = errors.Join(err, dir.Close()); err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	stats := map[int]jobdir.Stat{}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if st, err := jobdir.ReadStat(pid); err == nil {
			stats[pid] = st // else it ended meanwhile
		}
	}
	return stats, nil
}

// maxEnviron bounds what is read of a foreign process's environment.
const maxEnviron = 4 << 20

// hasEnv looks for a variable in a process's first environment. Processes of
// others, which we may not read, are not ours.
func hasEnv(pid int, mark []byte) bool {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/environ")
	if err != nil {
		return false
	}
	text, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if errors.Join(err, f.Close()) != nil {
		return false
	}
	at := bytes.Index(text, mark)
	return at == 0 || at > 0 && text[at-1] == 0
}
