package account

import "time"

// Outcomes of a submission.
const (
	// Submitted: the batch system has the job.
	Submitted = "submitted"
	// Unknown: it may have it; a later look by key tells.
	Unknown = "unknown"
)

// Submission is the audit record of one batch job: who in Kubernetes made which
// job run as whom, and by which rule. It holds no user data beyond names.
type Submission struct {
	Time      time.Time `json:"time"`
	Outcome   string    `json:"outcome"`
	Cluster   string    `json:"cluster"`
	Rule      int       `json:"rule"`
	Namespace string    `json:"namespace"`
	Pods      []string  `json:"pods"`
	PodUIDs   []string  `json:"podUIDs"`
	// ServiceAccounts of the pods, each once.
	ServiceAccounts []string `json:"serviceAccounts"`
	User            string   `json:"user"`
	Account         string   `json:"account,omitempty"`
	QOS             string   `json:"qos,omitempty"`
	Partition       string   `json:"partition"`
	Key             string   `json:"key"`
	JobID           string   `json:"jobID,omitempty"`
}

// Record fills a Submission from the account that was decided.
func (a Account) Record(now time.Time, cluster, namespace, partition, key, jobID string) Submission {
	return Submission{
		Time: now.UTC(), Cluster: cluster, Rule: a.Rule, Namespace: namespace,
		User: a.User, Account: a.Account, QOS: a.QOS,
		Partition: partition, Key: key, JobID: jobID,
	}
}
