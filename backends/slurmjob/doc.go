// Package slurmjob is what Slurm is, whatever one speaks to it through: how a
// job of ours is named and described, what its states, reasons, exit statuses
// and error messages mean, and how its text forms read. The backends slurm (the
// commands) and slurmrest (slurmrestd) share it, so that a site may change from
// one to the other while jobs run. It is pure.
//
// A job's comment is "isthmus/<owner>/<key>": that tag alone says that a job is
// ours. Jobs are named by their key and submitted with dependency "singleton",
// so that Slurm itself never runs two of one key and user at once.
package slurmjob
