package validation

import (
	"net"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	utilvalidation "k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
)

// prefix of the labels, taints and annotations that Isthmus itself sets. It is
// spelled in wellknown too; types stay free of it.
const prefix = "isthmus.sh/"

// longestToken is how long a token that is made for a user may live.
const longestToken = time.Hour

func connection(c *hpc.Connection, at *field.Path) field.ErrorList {
	errs := oneOf(at.Child("type"), c.Type, "cli", "ssh", "rest")
	for _, name := range sets.List(sets.KeySet(c.Env)) {
		at := at.Child("env").Key(name)
		if !envName.MatchString(name) {
			errs = append(errs, field.Invalid(at, name, "is no name of an environment variable"))
		}
		if strings.ContainsAny(c.Env[name], "\x00\n") {
			errs = append(errs, field.Invalid(at, "", "holds a line break or a NUL"))
		}
	}
	switch {
	case c.Type == "ssh" && c.SSH == nil:
		errs = append(errs, field.Required(at.Child("ssh"), "connection type ssh needs it"))
	case c.Type == "cli" && c.SSH != nil:
		errs = append(errs, field.Forbidden(at.Child("ssh"), "connection type cli does not use it; set connection.type"))
	}
	switch {
	case c.Type == "rest" && c.REST == nil:
		errs = append(errs, field.Required(at.Child("rest"), "connection type rest needs it"))
	case c.Type != "rest" && c.REST != nil:
		errs = append(errs, field.Forbidden(at.Child("rest"), "only connection type rest uses it; set connection.type"))
	}
	if c.SSH != nil {
		errs = append(errs, ssh(c.SSH, at.Child("ssh"))...)
	}
	if c.REST != nil {
		errs = append(errs, rest(c.REST, at.Child("rest"))...)
	}
	return append(errs, optional(at.Child("federation"), c.Federation, regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_-]*$`))...)
}

func ssh(s *hpc.SSHConnection, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Hosts) == 0 {
		errs = append(errs, field.Required(at.Child("hosts"), "name at least one login node"))
	}
	for i, h := range s.Hosts {
		errs = append(errs, hostPort(h, at.Child("hosts").Index(i))...)
	}
	errs = append(errs, optional(at.Child("user"), s.User, userName)...)
	if s.User == "root" {
		errs = append(errs, field.Invalid(at.Child("user"), s.User, "nobody logs in as root: name an account that may become the mapped users by sudo, and no other"))
	}
	errs = append(errs, oneOf(at.Child("become"), s.Become, "login", "sudo")...)
	if s.Become == "sudo" && s.User == "" {
		errs = append(errs, field.Required(at.Child("user"), `become "sudo" needs the user to log in as`))
	}
	if s.Become == "login" && s.User != "" {
		errs = append(errs, field.Forbidden(at.Child("user"), `become "login" logs in as each mapped user; leave it out, or set become to "sudo"`))
	}
	for name, p := range map[string]string{"keyFile": s.KeyFile, "certificateFile": s.CertificateFile, "agentSocket": s.AgentSocket, "controlPath": s.ControlPath, "knownHostsFile": s.KnownHostsFile} {
		if p != "" {
			errs = append(errs, path(p, at.Child(name))...)
		}
	}
	if s.KeyFile == "" && s.KeySecretRef == nil && s.AgentSocket == "" && s.ControlPath == "" {
		errs = append(errs, field.Required(at.Child("keyFile"), "one of keyFile, keySecretRef, agentSocket and controlPath is needed"))
	}
	if s.KeyFile != "" && s.KeySecretRef != nil {
		errs = append(errs, field.Forbidden(at.Child("keySecretRef"), "keyFile is set as well; name one"))
	}
	if s.CertificateFile != "" && s.KeyFile == "" {
		errs = append(errs, field.Required(at.Child("keyFile"), "certificateFile is a certificate for it"))
	}
	errs = append(errs, secretKey(s.KeySecretRef, at.Child("keySecretRef"))...)
	errs = append(errs, secretKey(s.KnownHostsSecretRef, at.Child("knownHostsSecretRef"))...)
	given := 0
	for _, set := range []bool{s.KnownHosts != "", s.KnownHostsFile != "", s.KnownHostsSecretRef != nil} {
		if set {
			given++
		}
	}
	if given != 1 {
		errs = append(errs, field.Required(at.Child("knownHosts"), "exactly one of knownHosts, knownHostsFile and knownHostsSecretRef is needed: an unknown host is never talked to"))
	}
	if s.KnownHosts != "" && !slices.ContainsFunc(strings.Split(s.KnownHosts, "\n"), knownHostLine) {
		errs = append(errs, field.Invalid(at.Child("knownHosts"), "", `holds no line "host type key"`))
	}
	for i, j := range s.ProxyJump {
		at := at.Child("proxyJump").Index(i)
		if last := strings.LastIndexByte(j, '@'); last >= 0 { // a user's name may have one
			user, host := j[:last], j[last+1:]
			errs = append(errs, required(at, user, userName)...)
			if user == "root" {
				errs = append(errs, field.Invalid(at, j, "nobody logs in as root, and a jump host needs no rights"))
			}
			j = host
		}
		errs = append(errs, hostPort(j, at)...)
	}
	if s.MaxSessions != 0 && s.MaxSessions < 2 {
		errs = append(errs, field.Invalid(at.Child("maxSessions"), s.MaxSessions, "must be at least 2: one for the tick, one for effects"))
	}
	errs = append(errs, positive(at.Child("keepalive"), s.Keepalive)...)
	return append(errs, positive(at.Child("connectTimeout"), s.ConnectTimeout)...)
}

func knownHostLine(line string) bool {
	line = strings.TrimSpace(line)
	return line != "" && line[0] != '#' && len(strings.Fields(line)) >= 3
}

func rest(r *hpc.RESTConnection, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	u, err := url.Parse(r.URL)
	switch {
	case err != nil:
		errs = append(errs, field.Invalid(at.Child("url"), r.URL, "is no URL"))
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		errs = append(errs, field.Invalid(at.Child("url"), "", "must hold no user, query or fragment"))
	case u.Scheme == "unix":
		if u.Host != "" || !filepath.IsAbs(u.Path) {
			errs = append(errs, field.Invalid(at.Child("url"), r.URL, "must be unix:///path/of/socket"))
		}
	case u.Scheme == "http" && u.Host != "":
		if ip := net.ParseIP(u.Hostname()); u.Hostname() != "localhost" && (ip == nil || !ip.IsLoopback()) {
			errs = append(errs, field.Invalid(at.Child("url"), r.URL, "http is for loopback only, since it shows the token to everyone on the way; use https or unix"))
		}
	case u.Scheme != "https" || u.Host == "":
		errs = append(errs, field.Invalid(at.Child("url"), r.URL, "must be https://host:port, unix:///path, or http:// on loopback"))
	}
	if r.CAFile != "" {
		errs = append(errs, path(r.CAFile, at.Child("caFile"))...)
		if err == nil && u.Scheme != "https" {
			errs = append(errs, field.Forbidden(at.Child("caFile"), "only https has an authority"))
		}
	}
	given := 0
	for _, set := range []bool{r.TokenFile != "", r.TokenSecretRef != nil, r.JWTKeyFile != "", r.JWTKeySecretRef != nil} {
		if set {
			given++
		}
	}
	if given != 1 {
		errs = append(errs, field.Required(at.Child("tokenFile"), "exactly one of tokenFile, tokenSecretRef, jwtKeyFile and jwtKeySecretRef is needed"))
	}
	for name, p := range map[string]string{"tokenFile": r.TokenFile, "jwtKeyFile": r.JWTKeyFile} {
		if p != "" {
			errs = append(errs, path(p, at.Child(name))...)
		}
	}
	errs = append(errs, secretKey(r.TokenSecretRef, at.Child("tokenSecretRef"))...)
	errs = append(errs, secretKey(r.JWTKeySecretRef, at.Child("jwtKeySecretRef"))...)
	errs = append(errs, positive(at.Child("tokenLifetime"), r.TokenLifetime)...)
	if r.TokenLifetime != nil && r.TokenLifetime.Duration > longestToken {
		errs = append(errs, field.Invalid(at.Child("tokenLifetime"), r.TokenLifetime.Duration.String(), "must be 1h at most"))
	}
	return errs
}

func secretKey(s *hpc.KeySelector, at *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	for _, why := range utilvalidation.IsDNS1123Subdomain(s.Name) {
		errs = append(errs, field.Invalid(at.Child("name"), s.Name, why))
	}
	if s.Namespace != "" {
		for _, why := range utilvalidation.IsDNS1123Label(s.Namespace) {
			errs = append(errs, field.Invalid(at.Child("namespace"), s.Namespace, why))
		}
	}
	if s.Key != "" {
		for _, why := range utilvalidation.IsConfigMapKey(s.Key) {
			errs = append(errs, field.Invalid(at.Child("key"), s.Key, why))
		}
	}
	return errs
}

func labelsAndTaints(n *hpc.VirtualNode, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, key := range sets.List(sets.KeySet(n.Labels)) {
		at := at.Child("labels").Key(key)
		for _, why := range append(utilvalidation.IsQualifiedName(key), utilvalidation.IsValidLabelValue(n.Labels[key])...) {
			errs = append(errs, field.Invalid(at, n.Labels[key], why))
		}
		if strings.HasPrefix(key, prefix) || key == corev1.LabelHostname {
			errs = append(errs, field.Forbidden(at, "Isthmus sets it"))
		}
	}
	for i, t := range n.Taints {
		at := at.Child("taints").Index(i)
		for _, why := range append(utilvalidation.IsQualifiedName(t.Key), utilvalidation.IsValidLabelValue(t.Value)...) {
			errs = append(errs, field.Invalid(at, t.Key, why))
		}
		if strings.HasPrefix(t.Key, prefix) {
			errs = append(errs, field.Forbidden(at.Child("key"), "Isthmus sets it"))
		}
		if t.Effect == corev1.TaintEffectNoExecute {
			errs = append(errs, field.Forbidden(at.Child("effect"), "NoExecute would end jobs that run; use NoSchedule"))
		} else {
			errs = append(errs, oneOf(at.Child("effect"), string(t.Effect), string(corev1.TaintEffectNoSchedule), string(corev1.TaintEffectPreferNoSchedule))...)
		}
	}
	return errs
}

func streams(s *hpc.BatchClusterSpec, at *field.Path) field.ErrorList {
	switch {
	case s.Streams == "":
		return nil
	case s.Streams == hpc.StreamsBatch && (s.Type == "pbs" || s.Type == "torque"):
		return field.ErrorList{field.Invalid(at, s.Streams, "type "+s.Type+" starts no program in a running job: want network or off")}
	}
	return oneOf(at, s.Streams, hpc.StreamsBatch, hpc.StreamsNetwork, hpc.StreamsOff)
}

func reservations(s *hpc.BatchClusterSpec, at *field.Path) field.ErrorList {
	switch {
	case s.Reservations == "":
		return nil
	case s.Reservations == hpc.ReservationsBatch && (s.Type != "slurm" || s.Connection.Type == "rest"):
		return field.ErrorList{field.Invalid(at, s.Reservations, "only Slurm's commands (connection.type cli or ssh) make reservations: leave it out")}
	}
	return oneOf(at, s.Reservations, hpc.ReservationsBatch, hpc.ReservationsOff)
}

// minImageRetention is how seldom the users of images say that they still are.
const minImageRetention = 2 * time.Hour

func images(i *hpc.Images, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if i.Directory != "" {
		errs = append(errs, path(i.Directory, at.Child("directory"), "{user}")...)
	}
	errs = append(errs, oneOf(at.Child("pull"), i.Pull, "job", "login")...)
	for j, p := range i.Archives {
		errs = append(errs, path(p, at.Child("archives").Index(j))...)
	}
	for j, m := range i.Mirrors {
		at := at.Child("mirrors").Index(j)
		errs = append(errs, hostPort(m.Registry, at.Child("registry"))...)
		host, rest, _ := strings.Cut(m.Endpoint, "/")
		errs = append(errs, hostPort(host, at.Child("endpoint"))...)
		if strings.ContainsAny(rest, " \t\n?#\\") || strings.Contains("/"+rest+"/", "/../") {
			errs = append(errs, field.Invalid(at.Child("endpoint"), m.Endpoint, "must be host[:port][/path]"))
		}
	}
	if i.CAFile != "" {
		errs = append(errs, path(i.CAFile, at.Child("caFile"))...)
	}
	for j, r := range i.Insecure {
		errs = append(errs, hostPort(r, at.Child("insecure").Index(j))...)
	}
	if r := i.Retention; r != nil && r.Duration != 0 && r.Duration < minImageRetention {
		errs = append(errs, field.Invalid(at.Child("retention"), r.Duration.String(), "must be at least "+minImageRetention.String()+", or 0s to keep images for ever"))
	}
	if q := i.MaxSize; q != nil && q.Sign() <= 0 {
		errs = append(errs, field.Invalid(at.Child("maxSize"), q.String(), "must be more than nothing; leave it out for no limit"))
	}
	return errs
}

func volumeClasses(classes []hpc.VolumeClass, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, v := range classes {
		at := at.Index(i)
		if v.StorageClassName != "" {
			for _, why := range utilvalidation.IsDNS1123Subdomain(v.StorageClassName) {
				errs = append(errs, field.Invalid(at.Child("storageClassName"), v.StorageClassName, why))
			}
		}
		if v.Selector != nil {
			errs = append(errs, selector(v.Selector, at.Child("selector"))...)
		}
		errs = append(errs, path(v.Path, at.Child("path"), "{user}", "{namespace}", "{claim}")...)
	}
	return errs
}

// path checks an absolute path in its shortest form. Braces are for the given
// placeholders alone.
func path(p string, at *field.Path, placeholders ...string) field.ErrorList {
	switch {
	case p == "":
		return field.ErrorList{field.Required(at, "must be an absolute path")}
	case !filepath.IsAbs(p):
		return field.ErrorList{field.Invalid(at, p, "must be an absolute path")}
	case strings.ContainsAny(p, "\x00\n"):
		return field.ErrorList{field.Invalid(at, strconv.Quote(p), "holds a line break or a NUL")}
	case filepath.Clean(p) != strings.TrimSuffix(p, "/") && p != "/":
		return field.ErrorList{field.Invalid(at, p, `must hold no "..", "." or empty element`)}
	}
	rest := p
	for _, name := range placeholders {
		rest = strings.ReplaceAll(rest, name, "")
	}
	if strings.ContainsAny(rest, "{}") {
		why := "no placeholder is known here"
		if len(placeholders) > 0 {
			why = "the placeholders are " + strings.Join(placeholders, ", ")
		}
		return field.ErrorList{field.Invalid(at, p, why)}
	}
	return nil
}

func hostPort(s string, at *field.Path) field.ErrorList {
	host := s
	if h, port, err := net.SplitHostPort(s); err == nil {
		host = h
		if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
			return field.ErrorList{field.Invalid(at, s, "the port must be 1 to 65535")}
		}
	}
	if net.ParseIP(host) == nil && !hostName.MatchString(host) {
		return field.ErrorList{field.Invalid(at, s, "must be host or host:port")}
	}
	return nil
}

func oneOf(at *field.Path, value string, choices ...string) field.ErrorList {
	if slices.Contains(choices, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(at, value, choices)}
}

func required(at *field.Path, value string, pattern *regexp.Regexp) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(at, "must match "+pattern.String())}
	}
	return optional(at, value, pattern)
}

func optional(at *field.Path, value string, pattern *regexp.Regexp) field.ErrorList {
	// "$" matches before a last line break.
	if value == "" || (pattern.MatchString(value) && !strings.HasSuffix(value, "\n")) {
		return nil
	}
	if len(value) > 64 {
		value = value[:64] + "..."
	}
	return field.ErrorList{field.Invalid(at, value, "must match "+pattern.String())}
}

func positive(at *field.Path, d *metav1.Duration) field.ErrorList {
	if d == nil || d.Duration > 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(at, d.Duration.String(), "must be more than zero")}
}
