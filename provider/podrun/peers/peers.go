// Package peers lets the members of a gang learn where the others run, through
// files in the gang's directory: each member writes its address, the launcher
// gathers them into one file, and every member reads that file. The addresses
// then go into an /etc/hosts that the containers see.
package peers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// Names of the files in the gang's directory.
const (
	hostsName = "hosts.json"
	peersName = "peers.json"
)

// Bounds of what is read.
const (
	maxAddress = 4 << 10
	maxStatus  = 1 << 20
	maxPeers   = 16 << 20
	maxEtc     = 4 << 20
)

// Hosts says which address each host of the allocation has.
type Hosts struct {
	Restart   int               `json:"restart"` // the batch job's restart count; another one's file is stale
	Addresses map[string]string `json:"addresses"`
}

// WriteHosts puts h into the gang's directory.
func WriteHosts(gang *os.Root, h Hosts) error { return atomicfile.WriteJSON(gang, hostsName, h) }

// ReadHosts reads what WriteHosts of the same restart wrote; ok is false when
// there is none.
func ReadHosts(gang *os.Root, restart int) (h Hosts, ok bool) {
	err := atomicfile.ReadJSON(gang, hostsName, maxPeers, &h)
	return h, err == nil && h.Restart == restart
}

// Set is what is known of the members of one run of a gang.
type Set struct {
	Restart int                      `json:"restart"`
	Known   map[int]manifest.Address `json:"known"`
	// Ended members wrote no address and never will: their pods have ended.
	Ended []int `json:"ended,omitempty"`
}

// Announce writes a member's own address.
func Announce(gang *os.Root, a manifest.Address) error {
	return atomicfile.WriteJSON(gang, path.Join("pods", strconv.Itoa(a.Rank), "addr.json"), a)
}

// Gather adds to s what members 0 to size-1 have written since, and gives those
// of which nothing is known yet.
func (s *Set) Gather(gang *os.Root, size int) (missing []int) {
	if s.Known == nil {
		s.Known = map[int]manifest.Address{}
	}
	ended := map[int]bool{}
	for _, r := range s.Ended {
		ended[r] = true
	}
	for rank := range size {
		if _, ok := s.Known[rank]; ok || ended[rank] {
			continue
		}
		dir := path.Join("pods", strconv.Itoa(rank))
		// Listing makes a network filesystem look again for a name it
		// remembers as missing.
		if d, err := gang.Open(dir); err == nil {
			_, _ = d.Readdirnames(-1)
			_ = d.Close()
		}
		var a manifest.Address
		if err := atomicfile.ReadJSON(gang, path.Join(dir, "addr.json"), maxAddress, &a); err == nil && a.Rank == rank && a.Restart == s.Restart {
			if ip, err := netip.ParseAddr(a.IP); err == nil {
				a.IP = ip.String()
				s.Known[rank] = a
				continue
			}
		}
		var st manifest.Status
		if err := atomicfile.ReadJSON(gang, path.Join(dir, "status.json"), maxStatus, &st); err == nil && st.Restart == s.Restart && st.Phase.Terminal() {
			s.Ended = append(s.Ended, rank)
			continue
		}
		missing = append(missing, rank)
	}
	return missing
}

// Publish writes a complete set for all members to read.
func (s *Set) Publish(gang *os.Root) error { return atomicfile.WriteJSON(gang, peersName, s) }

// Published reads what Publish of the same restart wrote; ok is false when there
// is none.
func Published(gang *os.Root, restart int) (s Set, ok bool) {
	err := atomicfile.ReadJSON(gang, peersName, maxPeers, &s)
	return s, err == nil && s.Restart == restart
}

// Names maps every host name of the gang to its address.
func Names(members []manifest.Member, s Set) map[string]string {
	out := map[string]string{}
	for _, m := range members {
		a, ok := s.Known[m.Rank]
		if !ok {
			continue
		}
		for _, h := range m.Hostnames {
			out[h] = a.IP
		}
	}
	return out
}

// EtcHosts gives the contents of an /etc/hosts: the gang's names first, so that
// they win, then the pod's host aliases, then the node's own file.
func EtcHosts(members []manifest.Member, s Set, aliases []corev1.HostAlias) ([]byte, error) {
	var b bytes.Buffer
	b.WriteString("# Written by Isthmus: the members of this pod's gang.\n")
	for _, m := range members {
		if a, ok := s.Known[m.Rank]; ok {
			line(&b, a.IP, m.Hostnames)
		}
	}
	if len(aliases) > 0 {
		b.WriteString("# The pod's hostAliases.\n")
	}
	for _, a := range aliases {
		line(&b, a.IP, a.Hostnames)
	}
	own, err := nodeHosts()
	if err != nil {
		return nil, err
	}
	b.WriteString("# The node's own.\n")
	b.Write(own)
	return b.Bytes(), nil
}

// line writes one address; a name that could break out of the line is left out.
func line(b *bytes.Buffer, ip string, names []string) {
	names = slices.DeleteFunc(slices.Clone(names), func(n string) bool {
		return n == "" || strings.ContainsFunc(n, func(r rune) bool {
			return r != '.' && r != '-' && r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z')
		})
	})
	if _, err := netip.ParseAddr(ip); err == nil && len(names) > 0 {
		fmt.Fprintf(b, "%s\t%s\n", ip, strings.Join(names, " "))
	}
}

// nodeHosts reads the node's own file.
func nodeHosts() ([]byte, error) {
	st, err := os.Stat("/etc/hosts")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && st.Size() > maxEtc {
		err = atomicfile.ErrTooLarge
	}
	var data []byte
	if err == nil {
		data, err = os.ReadFile("/etc/hosts")
	}
	if err != nil {
		return nil, fmt.Errorf("read the node's hosts file: %w", err)
	}
	return data, nil
}

// Variable gives the value of an environment variable with the gang's host names as
// addresses, where Rewritten says so: those of TensorFlow are in a JSON document, those
// of others in a list.
func Variable(name, value string, names map[string]string, resolves bool) string {
	switch {
	case !Rewritten(name, resolves):
		return value
	case name == "TF_CONFIG":
		return rewriteJSON(value, names)
	}
	return Rewrite(value, names)
}

// Word gives a word of a command line with the gang's host names as addresses: that of
// "ray start --address=HOST:PORT", which the plugin ray writes.
func Word(word string, names map[string]string, resolves bool) string {
	const flag = "--address="
	if at, ok := strings.CutPrefix(word, flag); ok && !resolves {
		return flag + Rewrite(at, names)
	}
	return word
}

// jsonString is a string of a JSON document, and the colon after it when it is the name
// of a member.
var jsonString = regexp.MustCompile(`"(?:[^"\\]|\\.)*"(?:\s*:)?`)

// rewriteJSON replaces the strings HOST:PORT of a JSON document; all else stays byte for
// byte. A document that is none stays as it is.
func rewriteJSON(value string, names map[string]string) string {
	if !json.Valid([]byte(value)) {
		return value
	}
	return jsonString.ReplaceAllStringFunc(value, func(s string) string {
		text, ok := strings.CutSuffix(strings.TrimPrefix(s, `"`), `"`)
		if !ok || !strings.Contains(text, ":") { // a member's name, or a word such as a role
			return s
		}
		return `"` + Rewrite(text, names) + `"`
	})
}

// Rewrite replaces the gang's host names by addresses in an environment value
// that is a comma-separated list of hosts, each with or without a port.
func Rewrite(value string, names map[string]string) string {
	parts := strings.Split(value, ",")
	for i, p := range parts {
		host, port, found := strings.Cut(p, ":")
		ip, ok := names[host]
		if !ok {
			continue
		}
		if found && strings.Contains(ip, ":") {
			ip = "[" + ip + "]"
		}
		if found {
			ip += ":" + port
		}
		parts[i] = ip
	}
	return strings.Join(parts, ",")
}

// Rewritten reports whether host names become addresses in an environment variable of
// that name.
// Where names do not resolve it is for those by which job plugins tell hosts. Where
// they do it is only for that of MindSpore, whose processes take addresses alone.
func Rewritten(name string, resolves bool) bool {
	switch name {
	case "MS_SCHED_HOST":
		return true
	case "MASTER_ADDR", "MPI_HOST", "TF_CONFIG":
		return !resolves
	}
	return !resolves && strings.HasPrefix(name, "VC_") && strings.HasSuffix(name, "_HOSTS")
}
