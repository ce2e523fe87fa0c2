package validation

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// Served says what a build of the daemon can do with a BatchCluster.
type Served struct {
	// Types are the values of spec.type, each with its connection types.
	Types map[string][]string
	// Runtimes that pods can be run with.
	Runtimes []hpc.Runtime
	// Unserved are paths of settings that are known and not served, such as
	// "spec.nodes[*].reservation". Setting one is an error: a setting that is
	// ignored would be worse.
	Unserved []string
}

var (
	// token bounds names that reach the batch system as option values.
	token = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.:@+-]{0,127}$`)
	// userName is what directories have beside useradd's own, such as john.doe and
	// u1234567@site.example. A leading dash would be read as an option, and digits
	// alone as a number, by the tools that take a user's name.
	userName = regexp.MustCompile(`^([A-Za-z_]|[0-9]+[A-Za-z_.@-])[A-Za-z0-9_.@-]{0,63}$`)
	hostName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.-]{0,252}$`)
	envName  = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// constraint is a feature expression: names joined by &, |, !, with counts,
	// groups and choices.
	constraint = regexp.MustCompile(`^[A-Za-z0-9_(\[!][A-Za-z0-9_.:@+&|!*()\[\],=-]{0,255}$`)
)

// BatchCluster checks c, defaulted by Default, against what is served. All
// mistakes are listed, each with its field and in the order of the fields.
func BatchCluster(c *hpc.BatchCluster, served Served) field.ErrorList {
	var errs field.ErrorList
	name := field.NewPath("metadata", "name")
	if c.Name == "" {
		errs = append(errs, field.Required(name, "the nodes and the jobs' tag are named after it"))
	}
	for _, why := range utilvalidation.IsDNS1123Subdomain(c.Name) {
		errs = append(errs, field.Invalid(name, c.Name, why))
	}
	spec := field.NewPath("spec")
	errs = append(errs, oneOf(spec.Child("type"), c.Spec.Type, "slurm", "pbs", "torque", "local")...)
	errs = append(errs, connection(&c.Spec.Connection, spec.Child("connection"))...)
	if c.Spec.Connection.Federation != "" && (c.Spec.Type != "slurm" || c.Spec.Connection.Type == "rest") {
		errs = append(errs, field.Forbidden(spec.Child("connection", "federation"), "only Slurm's commands can name a cluster (-M); leave it out"))
	}
	errs = append(errs, servedTypes(&c.Spec, spec, served)...)
	errs = append(errs, nodes(&c.Spec, spec.Child("nodes"))...)
	errs = append(errs, Accounts(c.Spec.Accounts, spec.Child("accounts"))...)
	errs = append(errs, usersOf(&c.Spec, spec.Child("accounts"))...)
	errs = append(errs, staging(&c.Spec.Staging, spec.Child("staging"))...)
	errs = append(errs, runtimes(c.Spec.Runtimes, spec.Child("runtimes"), served)...)
	errs = append(errs, images(&c.Spec.Images, spec.Child("images"))...)
	errs = append(errs, streams(&c.Spec, spec.Child("streams"))...)
	errs = append(errs, reservations(&c.Spec, spec.Child("reservations"))...)
	for i, p := range c.Spec.HostPaths {
		errs = append(errs, path(p, spec.Child("hostPaths").Index(i))...)
	}
	errs = append(errs, volumeClasses(c.Spec.VolumeClasses, spec.Child("volumeClasses"))...)
	errs = append(errs, times(&c.Spec, spec)...)
	errs = append(errs, localSystem(&c.Spec, spec.Child("local"))...)
	return append(errs, unserved(c, served.Unserved)...)
}

func servedTypes(s *hpc.BatchClusterSpec, at *field.Path, served Served) field.ErrorList {
	connections, ok := served.Types[s.Type]
	if !ok {
		return field.ErrorList{field.NotSupported(at.Child("type"), s.Type, sets.List(sets.KeySet(served.Types)))}
	}
	if !slices.Contains(connections, s.Connection.Type) {
		return field.ErrorList{field.NotSupported(at.Child("connection", "type"), s.Connection.Type, connections)}
	}
	return nil
}

func nodes(s *hpc.BatchClusterSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i := range s.Nodes {
		n, at := &s.Nodes[i], at.Index(i)
		if seen[n.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), n.Name))
		}
		seen[n.Name] = true
		if len(n.Name) > utilvalidation.DNS1123LabelMaxLength {
			errs = append(errs, field.TooLong(at.Child("name"), n.Name, utilvalidation.DNS1123LabelMaxLength))
		}
		for _, why := range utilvalidation.IsDNS1123Subdomain(n.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), n.Name, why))
		}
		errs = append(errs, required(at.Child("partition"), n.Partition, token)...)
		errs = append(errs, optional(at.Child("constraint"), n.Constraint, constraint)...)
		errs = append(errs, optional(at.Child("qos"), n.QOS, token)...)
		errs = append(errs, optional(at.Child("reservation"), n.Reservation, token)...)
		errs = append(errs, labelsAndTaints(n, at)...)
		if n.MaxPodsPending < 1 {
			errs = append(errs, field.Invalid(at.Child("maxPodsPending"), n.MaxPodsPending, "must be at least 1"))
		}
		if n.ForeignUse != "" && n.ForeignUse != hpc.ForeignUseSubtract && n.ForeignUse != hpc.ForeignUseIgnore {
			errs = append(errs, field.NotSupported(at.Child("foreignUse"), n.ForeignUse, []hpc.ForeignUse{hpc.ForeignUseSubtract, hpc.ForeignUseIgnore}))
		}
		for _, gres := range sets.List(sets.KeySet(n.GPUResources)) {
			at, resource := at.Child("gpuResources").Key(gres), n.GPUResources[gres]
			errs = append(errs, required(at, gres, token)...)
			for _, why := range utilvalidation.IsQualifiedName(resource) {
				errs = append(errs, field.Invalid(at, resource, why))
			}
			if domain, _, ok := strings.Cut(resource, "/"); !ok || strings.HasSuffix(domain, "kubernetes.io") {
				errs = append(errs, field.Invalid(at, resource, "must be an extended resource such as nvidia.com/gpu"))
			}
		}
		for j, h := range n.IncludeHosts {
			errs = append(errs, required(at.Child("includeHosts").Index(j), h, hostName)...)
		}
		for j, h := range n.ExcludeHosts {
			errs = append(errs, required(at.Child("excludeHosts").Index(j), h, hostName)...)
			if slices.Contains(n.IncludeHosts, h) {
				errs = append(errs, field.Invalid(at.Child("excludeHosts").Index(j), h, "is included as well; name it once"))
			}
		}
	}
	return errs
}

// Accounts checks the mapping of namespaces to users.
func Accounts(entries []hpc.Account, at *field.Path) field.ErrorList {
	if len(entries) == 0 {
		return field.ErrorList{field.Required(at, "at least one entry, or no pod may run")}
	}
	var errs field.ErrorList
	for i := range entries {
		errs = append(errs, Account(&entries[i], at.Index(i))...)
	}
	return errs
}

// usersOf checks the mapped users against the batch system.
func usersOf(s *hpc.BatchClusterSpec, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range s.Accounts {
		// PBS writes user@host, and what follows the first '@' is a host to it.
		if user := s.Accounts[i].User; (s.Type == "pbs" || s.Type == "torque") && strings.Contains(user, "@") {
			errs = append(errs, field.Invalid(at.Index(i).Child("user"), user, "PBS and Torque take what follows '@' for a host; name a user without it"))
		}
	}
	return errs
}

// Account checks one entry of the mapping.
func Account(e *hpc.Account, at *field.Path) field.ErrorList {
	errs := selector(&e.NamespaceSelector, at.Child("namespaceSelector"))
	if strings.EqualFold(e.User, "root") {
		errs = append(errs, field.Invalid(at.Child("user"), e.User, "jobs never run as root; name an ordinary user"))
	}
	errs = append(errs, required(at.Child("user"), e.User, userName)...)
	errs = append(errs, optional(at.Child("account"), e.Account, token)...)
	errs = append(errs, optional(at.Child("qos"), e.QOS, token)...)
	for i, p := range e.Partitions {
		errs = append(errs, required(at.Child("partitions").Index(i), p, token)...)
	}
	for i, q := range e.AllowedQOS {
		errs = append(errs, required(at.Child("allowedQOS").Index(i), q, token)...)
	}
	for i, a := range e.AllowedAccounts {
		errs = append(errs, required(at.Child("allowedAccounts").Index(i), a, token)...)
	}
	errs = append(errs, positive(at.Child("maxWalltime"), e.MaxWalltime)...)
	for i, name := range e.AllowEnv {
		if plain := strings.TrimSuffix(name, "*"); plain != "" || name == "" {
			errs = append(errs, required(at.Child("allowEnv").Index(i), plain, envName)...)
		}
	}
	return errs
}

func selector(s *metav1.LabelSelector, at *field.Path) field.ErrorList {
	if _, err := metav1.LabelSelectorAsSelector(s); err != nil {
		return field.ErrorList{field.Invalid(at, metav1.FormatLabelSelector(s), err.Error())}
	}
	return nil
}

func staging(s *hpc.Staging, at *field.Path) field.ErrorList {
	errs := path(s.Directory, at.Child("directory"), "{user}")
	if s.Podrun != "" {
		errs = append(errs, path(s.Podrun, at.Child("podrun"))...)
	}
	if s.Retention != nil && s.Retention.Duration < 0 {
		errs = append(errs, field.Invalid(at.Child("retention"), s.Retention.Duration.String(), "must not be negative"))
	}
	return errs
}

func runtimes(list []hpc.Runtime, at *field.Path, served Served) field.ErrorList {
	var errs field.ErrorList
	for i, r := range list {
		if !slices.Contains(served.Runtimes, r) {
			errs = append(errs, field.NotSupported(at.Index(i), r, served.Runtimes))
		}
		if slices.Index(list, r) < i {
			errs = append(errs, field.Duplicate(at.Index(i), r))
		}
	}
	return errs
}

func times(s *hpc.BatchClusterSpec, at *field.Path) field.ErrorList {
	walltime, poll := at.Child("walltime"), at.Child("poll")
	errs := positive(walltime.Child("default"), s.Walltime.Default)
	errs = append(errs, positive(walltime.Child("max"), s.Walltime.Max)...)
	errs = append(errs, positive(walltime.Child("grace"), s.Walltime.Grace)...)
	if s.Walltime.Default != nil && s.Walltime.Max != nil && s.Walltime.Default.Duration > s.Walltime.Max.Duration {
		errs = append(errs, field.Invalid(walltime.Child("default"), s.Walltime.Default.Duration.String(), "is more than walltime.max"))
	}
	errs = append(errs, estimates(&s.Walltime.Estimates, walltime.Child("estimates"))...)
	for name, d := range map[string]*metav1.Duration{"tick": s.Poll.Tick, "idle": s.Poll.Idle} {
		if d != nil && (d.Duration < time.Second || d.Duration > time.Hour) {
			errs = append(errs, field.Invalid(poll.Child(name), d.Duration.String(), "must be 1s to 1h"))
		}
	}
	return errs
}

func estimates(e *hpc.Estimates, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if known := []string{hpc.EstimatesNone, hpc.EstimatesDeclared, hpc.EstimatesLearnt}; e.Limit != "" && !slices.Contains(known, e.Limit) {
		errs = append(errs, field.NotSupported(at.Child("limit"), e.Limit, known))
	}
	if p := e.MarginPercent; p != nil && (*p < 0 || *p > 1000) {
		errs = append(errs, field.Invalid(at.Child("marginPercent"), *p, "must be 0 to 1000"))
	}
	if m := e.MinMargin; m != nil && (m.Duration < 0 || m.Duration > 24*time.Hour) {
		errs = append(errs, field.Invalid(at.Child("minMargin"), m.Duration.String(), "must be 0s to 24h"))
	}
	return errs
}

func localSystem(s *hpc.BatchClusterSpec, at *field.Path) field.ErrorList {
	if s.Type != "local" {
		if s.Local != nil {
			return field.ErrorList{field.Forbidden(at, "only type local has it")}
		}
		return nil
	}
	if s.Local == nil || len(s.Local.Partitions) == 0 {
		return field.ErrorList{field.Required(at.Child("partitions"), "type local needs at least one")}
	}
	var errs field.ErrorList
	names := map[string]bool{}
	for i, p := range s.Local.Partitions {
		at := at.Child("partitions").Index(i)
		for _, why := range utilvalidation.IsDNS1123Label(p.Name) {
			errs = append(errs, field.Invalid(at.Child("name"), p.Name, why))
		}
		if names[p.Name] {
			errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
		}
		names[p.Name] = true
		for _, n := range []struct {
			name  string
			value int64
			least int64
		}{{"hosts", int64(p.Hosts), 1}, {"cpus", p.CPUs, 1}, {"memoryMiB", p.MemoryMiB, 1}, {"gpus", p.GPUs, 0}} {
			if n.value < n.least {
				errs = append(errs, field.Invalid(at.Child(n.name), n.value, fmt.Sprintf("must be at least %d", n.least)))
			}
		}
		errs = append(errs, optional(at.Child("gpuType"), p.GPUType, token)...)
		if p.GPUType != "" && p.GPUs == 0 {
			errs = append(errs, field.Invalid(at.Child("gpuType"), p.GPUType, "the partition has no GPUs"))
		}
	}
	for i, n := range s.Nodes {
		if !names[n.Partition] {
			errs = append(errs, field.NotFound(field.NewPath("spec", "nodes").Index(i).Child("partition"), n.Partition))
		}
	}
	return errs
}
