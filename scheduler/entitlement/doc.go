// Package entitlement says what each queue is owed, may hold and holds. It is the
// one ledger of a cycle: nobody else adds up what a queue has.
//
// A Ledger is made of a snapshot. It turns the queues' parents into a tree below
// one root, shares what there is from the root down (see Mode), and keeps what
// is held up to date as pods are taken and given. All amounts are integers, one
// resource at a time, and equal snapshots give equal ledgers.
//
// Invariants, for every tree, however badly declared, and in every resource:
//   - what the queues below one deserve is in sum at most what it deserves;
//   - guarantee <= deserved <= capability;
//   - by weight, nothing is left over while somebody wants it and may have it.
//
// The package is pure: no client, no clock, no log.
package entitlement
