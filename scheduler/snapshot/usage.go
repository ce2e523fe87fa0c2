package snapshot

import "github.com/isthmus-hpc/isthmus/scheduler/resource"

// Usage is what queues have held of late. It fades: after a half-life what was held
// counts half.
type Usage struct {
	// At is when Of was added up, in seconds since 1970, and HalfLife how many
	// seconds it takes to fade to a half.
	At       int64 `json:"at"`
	HalfLife int64 `json:"halfLife"`
	// Of is ordered by queue, then namespace.
	Of []UsageOf `json:"of,omitempty"`
}

// UsageOf is what the gangs of a namespace have held in one queue: of each resource
// the part of the cluster times the seconds that it was held, in units of
// 1/resource.ShareUnit.
type UsageOf struct {
	Queue     string        `json:"queue"`
	Namespace string        `json:"namespace"`
	Held      resource.List `json:"held"`
}
