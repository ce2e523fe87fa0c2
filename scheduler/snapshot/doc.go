// Package snapshot is the state that one scheduling cycle decides over: nodes
// with what they hold, gangs with their pods, and queues. It is immutable; a
// decision is tried in a Txn on top, with checkpoint and rollback.
//
// Values are built by constructors (NewClass, NewNode, Assemble) so that a cache
// can keep what did not change, or all at once from a Document, which is the
// JSON form. The package imports no client, reads no clock and logs nothing.
//
// Invariants: nodes and queues are ordered by name, gangs by key, the pods of a
// gang by task, index, name and UID; vectors of one snapshot share one table of
// resource names, which holds exactly the names that some node offers.
package snapshot
