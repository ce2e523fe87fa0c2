package machine

import (
	"fmt"

	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
)

// command carries out the oldest Command, if there is one. It is noted in the
// status before it is deleted, so that a crash in between neither loses it nor
// lets it count twice.
func (p *pass) command() (why Reason, moved bool) {
	if len(p.in.Commands) == 0 {
		return Reason{}, false
	}
	c := p.in.Commands[0]
	p.out.DeleteCommand = c
	if p.memory.command == c.UID {
		return Reason{}, false
	}
	p.memory.command = c.UID
	action, phase := bus.Action(c.Action), p.out.Status.State.Phase
	if !allowed(action, phase) {
		p.out.Notices = append(p.out.Notices, Notice{Warning: true, Reason: Reason{string(bus.CommandIssuedEvent),
			fmt.Sprintf("command %s (%s) has no effect on a job that is %s", c.Name, c.Action, phase)}})
		return Reason{}, false
	}
	text := fmt.Sprintf("command %s says %s", c.Name, action)
	if c.Message != "" {
		text += ": " + c.Message
	}
	// A command names no part of the job.
	switch action {
	case bus.RestartTaskAction, bus.RestartPodAction, bus.RestartPartitionAction:
		action = bus.RestartJobAction
	}
	p.act(&verdict{action: action, event: bus.CommandIssuedEvent})
	return Reason{string(bus.CommandIssuedEvent), text}, true
}

// allowed says which actions change a job in a phase; all others leave it.
func allowed(action bus.Action, phase batch.JobPhase) bool {
	switch action {
	case bus.ResumeJobAction:
		return phase == batch.Aborting || phase == batch.Aborted
	case bus.AbortJobAction, bus.TerminateJobAction, bus.CompleteJobAction:
		return active(phase) || phase == batch.Restarting
	case bus.RestartJobAction, bus.RestartTaskAction, bus.RestartPodAction, bus.RestartPartitionAction:
		return active(phase)
	}
	return false
}
