// Package jobdir is the state directory of the local batch system: one
// directory a job, with one small file for each fact, renamed into place. The
// files alone are the state, so that the daemon and the supervisors of running
// jobs may crash and restart in any order.
//
//	lock                    held while jobs are created, released, started or swept
//	config.json             Config, for the supervisors
//	next                    number of the next job
//	jobs/<id>/spec.json     Record, before the directory gets its name
//	jobs/<id>/released      the job may run
//	jobs/<id>/cancelled     the job is to end
//	jobs/<id>/start.json    Assignment: the job holds hosts
//	jobs/<id>/alive         locked by the supervisor for all its life
//	jobs/<id>/supervisor.json  Process
//	jobs/<id>/launching     the program may have run: it is never started again
//	jobs/<id>/program.json  Process of the batch script
//	jobs/<id>/end.json      End
//	jobs/<id>/supervise.log what the supervisor had to say
//
// It must not decide anything: package queue does.
package jobdir
