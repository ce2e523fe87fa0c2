package backends

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of a JobSpec. They are far above what a site runs and keep every sum
// of a valid spec far from overflow.
const (
	MaxComponents = 64
	MaxTasks      = 65536   // of all components together
	MaxCPUs       = 65536   // a task
	MaxMemoryMiB  = 1 << 32 // a task: 4 PiB
	MaxGPUs       = 4096    // a task, of each type
	MaxGPUTypes   = 16      // a task
	MaxTotal      = 1 << 40 // of any resource over all tasks
	MaxWalltime   = 366 * 24 * time.Hour
	MaxGrace      = 24 * time.Hour
	// MaxExcludedHosts of one job.
	MaxExcludedHosts = 20_000
	MaxLicenses      = 64      // of one job, by name
	MaxLicenseCount  = 1 << 30 // of each name
	MaxSwitches      = 65536
	MaxSwitchesWait  = 366 * 24 * time.Hour
	// MaxAfter jobs that one job waits for.
	MaxAfter     = 64
	maxNameBytes = 255
	maxPathBytes = 4095 - 64 // leaves room for the files of a gang directory
)

// ValidKey reports whether k has the form of a Key.
func ValidKey(k Key) bool {
	if len(k) < 1 || len(k) > 15 || k[0] < 'a' || k[0] > 'z' {
		return false
	}
	for _, c := range []byte(k) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// Validate checks everything about s that does not need the batch system, and
// names each wrong field. A backend refuses an invalid spec with KindInvalid
// before it asks the batch system, so that no text of a pod can become an
// option, a script line or a second variable there.
func (s JobSpec) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if !ValidKey(s.Key) {
		bad("key", "%q is not 1 to 15 characters of a-z and 0-9 that start with a letter", string(s.Key))
	}
	if why := wrongOwner(s.Owner); why != "" {
		bad("owner", "%q %s", s.Owner, why)
	}
	if why := wrongUser(s.User); why != "" {
		bad("user", "%q %s", s.User, why)
	}
	for _, f := range []struct{ field, value string }{
		{"partition", s.Partition}, {"account", s.Account}, {"qos", s.QOS},
		{"constraint", s.Constraint}, {"reservation", s.Reservation},
	} {
		if why := wrongText(f.value, maxNameBytes); why != "" {
			bad(f.field, "%q %s", f.value, why)
		}
	}
	if len(s.ExcludedHosts) > MaxExcludedHosts {
		bad("excludedHosts", "there are %d, more than %d", len(s.ExcludedHosts), MaxExcludedHosts)
	}
	for i, h := range s.ExcludedHosts {
		if !validHost(h) {
			bad(fmt.Sprintf("excludedHosts[%d]", i), "%.80q is not 1 to %d letters, digits, '.', '_' and '-' that start with a letter or digit", h, maxHostBytes)
			break
		}
	}
	if s.Host != "" && !validHost(s.Host) {
		bad("host", "%.80q is not 1 to %d letters, digits, '.', '_' and '-' that start with a letter or digit", s.Host, maxHostBytes)
	}
	errs = append(errs, s.validateLicenses()...)
	if s.Switches < 0 || s.Switches > MaxSwitches {
		bad("switches", "%d is not 0 to %d", s.Switches, MaxSwitches)
	}
	if s.SwitchesWait < 0 || s.SwitchesWait > MaxSwitchesWait {
		bad("switchesWait", "%s is not between 0 and %s", s.SwitchesWait, MaxSwitchesWait)
	}
	if len(s.After) > MaxAfter {
		bad("after", "there are %d, more than %d", len(s.After), MaxAfter)
	}
	for i, id := range s.After {
		if !validHost(string(id)) { // a number, in PBS with the name of its server
			bad(fmt.Sprintf("after[%d]", i), "%.80q is not the id of a job", string(id))
			break
		}
	}
	if s.Walltime < 0 || s.Walltime > MaxWalltime {
		bad("walltime", "%s is not between 0 and %s", s.Walltime, MaxWalltime)
	}
	if s.Grace < 0 || s.Grace > MaxGrace {
		bad("grace", "%s is not between 0 and %s", s.Grace, MaxGrace)
	}
	if why := wrongDir(s.WorkDir); why != "" {
		bad("workDir", "%q %s", s.WorkDir, why)
	}
	errs = append(errs, validateComponents(s.Components)...)
	return errors.Join(errs...)
}

func (s JobSpec) validateLicenses() []error {
	var errs []error
	if n := len(s.Licenses); n > MaxLicenses {
		errs = append(errs, fmt.Errorf("licenses: there are %d names, more than %d", n, MaxLicenses))
	}
	for _, name := range slices.Sorted(maps.Keys(s.Licenses)) {
		switch n := s.Licenses[name]; {
		case !ValidLicense(name):
			errs = append(errs, fmt.Errorf("licenses: %.80q is not 1 to %d letters, digits, '.', '_', '-' and '@' that start with a letter or digit", name, maxLicenseBytes))
		case n < 1 || n > MaxLicenseCount:
			errs = append(errs, fmt.Errorf("licenses: %.80q: %d is not 1 to %d", name, n, MaxLicenseCount))
		}
	}
	return errs
}

// Unserved names what s asks for that a batch system without the capability cannot
// give, in the words of a refusal; nil when there is nothing.
func (s JobSpec) Unserved(c Capabilities) error {
	switch {
	case len(s.Licenses) > 0 && !c.Licenses:
		return fmt.Errorf("licenses: this batch system counts none, and cannot give %.80q", slices.Sorted(maps.Keys(s.Licenses))[0])
	case (s.Switches > 0 || s.SwitchesWait > 0) && !c.Switches:
		return fmt.Errorf("switches: this batch system cannot be asked for hosts at %d of them", s.Switches)
	}
	for i, comp := range s.Components {
		if n := comp.GPUs[Shard]; n > 0 && !c.Shards {
			return fmt.Errorf("components[%d].gpus: this batch system cannot be asked for %d shares of a GPU", i, n)
		}
	}
	return nil
}

const maxLicenseBytes = 128

// ValidLicense reports whether a name can be part of a list of licences.
func ValidLicense(name string) bool {
	for i, c := range []byte(name) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-' && c != '@') {
			return false
		}
	}
	return name != "" && len(name) <= maxLicenseBytes
}

// maxHostBytes bounds one host name, as the Domain Name System does.
const maxHostBytes = 253

// validHost reports whether a name can be part of a list of hosts.
func validHost(h string) bool {
	for i, c := range []byte(h) {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		if !letter && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return h != "" && len(h) <= maxHostBytes
}

func validateComponents(components []Component) []error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if n := len(components); n < 1 || n > MaxComponents {
		bad("components", "there are %d, not 1 to %d", n, MaxComponents)
		return errs
	}
	var tasks, cpus, memory, gpus int64
	for i, c := range components {
		at := fmt.Sprintf("components[%d]", i)
		before := len(errs)
		if c.Tasks < 1 || c.Tasks > MaxTasks {
			bad(at+".tasks", "%d is not 1 to %d", c.Tasks, MaxTasks)
		}
		if c.CPUs < 1 || c.CPUs > MaxCPUs {
			bad(at+".cpus", "%d is not 1 to %d", c.CPUs, MaxCPUs)
		}
		if c.MemoryMiB < 0 || c.MemoryMiB > MaxMemoryMiB {
			bad(at+".memoryMiB", "%d is not 0 to %d", c.MemoryMiB, int64(MaxMemoryMiB))
		}
		if len(c.GPUs) > MaxGPUTypes {
			bad(at+".gpus", "there are %d types, more than %d", len(c.GPUs), MaxGPUTypes)
		}
		var each int64
		for _, kind := range slices.Sorted(maps.Keys(c.GPUs)) {
			n := c.GPUs[kind]
			if why := wrongGPUType(kind); why != "" && kind != Shard {
				bad(at+".gpus", "type %q %s", kind, why)
			}
			if n < 0 || n > MaxGPUs {
				bad(at+".gpus", "type %q: %d is not 0 to %d", kind, n, MaxGPUs)
				continue
			}
			each += n
		}
		if n := c.GPUs[Shard]; n > 0 && (each > n || c.Tasks > 1) {
			bad(at+".gpus", "shares of a GPU are for one task a component, and not beside whole GPUs")
		}
		if len(errs) > before {
			continue
		}
		// Bounded factors: none of these products or sums can overflow.
		n := int64(c.Tasks)
		tasks, cpus, memory, gpus = tasks+n, cpus+n*c.CPUs, memory+n*c.MemoryMiB, gpus+n*each
	}
	if tasks > MaxTasks {
		bad("components", "%d tasks in all, more than %d", tasks, MaxTasks)
	}
	for _, sum := range []struct {
		what  string
		total int64
	}{{"CPUs", cpus}, {"MiB of memory", memory}, {"GPUs", gpus}} {
		if sum.total > MaxTotal {
			bad("components", "%d %s in all, more than %d", sum.total, sum.what, int64(MaxTotal))
		}
	}
	return errs
}

func wrongOwner(s string) string {
	if len(s) < 1 || len(s) > 63 {
		return "is not 1 to 63 characters long"
	}
	if s[0] == '-' {
		return "starts with '-'"
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return "has a character outside a-z, 0-9 and '-'"
		}
	}
	return ""
}

func wrongUser(s string) string {
	switch {
	case s == "":
		return "is empty"
	case s == "root":
		return "may not run jobs"
	case strings.Trim(s, "0123456789") == "":
		// A number could be the uid of anybody, also 0.
		return "is a number, not a name"
	case strings.ContainsAny(s, " :,/"):
		return "has a character that no user name has"
	}
	return wrongText(s, maxNameBytes)
}

func wrongDir(s string) string {
	switch {
	case !path.IsAbs(s):
		return "is not an absolute path"
	case path.Clean(s) != s:
		return "is not a clean path: it has '.', '..', '//' or a trailing '/'"
	case s == "/":
		return "is the root directory"
	}
	return wrongText(s, maxPathBytes)
}

func wrongGPUType(s string) string {
	if strings.ContainsAny(s, " ,:=()/") {
		return "has a character that separates fields in a GRES list"
	}
	return wrongText(s, maxNameBytes)
}

func wrongText(s string, limit int) string {
	switch {
	case len(s) > limit:
		return fmt.Sprintf("is %d bytes long, more than %d", len(s), limit)
	case strings.HasPrefix(s, "-"):
		return "starts with '-'"
	case !utf8.ValidString(s):
		return "is not valid UTF-8"
	case strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }):
		return "has a control character"
	}
	return ""
}
