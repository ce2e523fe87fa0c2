// Package admission is the webhook of the Volcano API: it judges what an object
// does not tell by itself, such as whether the queue of a Job is open, whether its
// pods would be taken and whether a flow goes round in a circle. What an object
// tells by itself is refused by policies of the API server, which the chart holds;
// the webhook checks it once more, for clusters without them.
//
// Nothing rests on it. While it cannot be asked, objects are let in, and the
// controllers say in status and events what is wrong with them. It is asked about
// objects of the Volcano API only, so no pod ever waits for it.
package admission
