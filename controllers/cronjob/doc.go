// Package cronjob makes Jobs at the times of a CronJob's schedule, one for each
// time, and keeps as many finished ones as the CronJob says. Next decides and is
// pure; the Reconciler carries it out. A Job is named after its time, so that no
// crash and no second controller makes it twice.
package cronjob
