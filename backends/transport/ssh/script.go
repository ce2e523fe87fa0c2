package ssh

import (
	"fmt"
	"strconv"
	"strings"
)

// script is what runs on the login node for every command. It is a constant:
// what to run, with which arguments and in which environment, comes over
// standard input, so nothing of it meets a shell's parser or shows in a process
// list. sshd hands the command line to the account's login shell, whatever that
// is; so the text has no quote, newline, exclamation mark or backslash that one
// of sh, bash, dash, ksh, zsh, csh, tcsh and fish would read differently within
// single quotes.
//
// Standard input is, in this order:
//
//   - a line with the marker;
//   - lines of one letter and a value: e an entry of the environment, h for a
//     HOME of the session's own, d the directory, p the program, a an argument,
//     i for standard input, r to refuse to run as uid 0, and "." as the last. A
//     capital letter says that the value is escaped for printf %b;
//   - when there is standard input: chunks, each a line with its length and that
//     many bytes; 0 is the end of it;
//   - then nothing. Its end means that the client is gone, or wants the command
//     killed: the whole process group is.
//
// Frames are the byte 036, the marker, a letter and text up to a newline, on
// standard output and standard error alike: S when the command starts with the
// number of its process group, E with its exit code, N with the reason why it was
// certainly not started. What comes before S is noise of the login shell.
//
// sshd makes every session the leader of a process group; under sudo setsid
// does. The command, the part that feeds it and the script itself are all in
// that group, so that one kill ends all of them.
var script = strings.Join([]string{
	`PATH=` + systemPath + `; LC_ALL=C; export PATH LC_ALL; set -f`,
	`n() { printf "\036%sN%s\n" "$m" "$1"; printf "\036%sN\n" "$m" >&2; exit 0; }`,
	`IFS= read -r m || exit 97`,
	`case $m in isthmus-*) ;; *) exit 97;; esac`,
	`h=$HOME; w=/; q=; i=; t=`,
	`while :; do IFS= read -r l || exit 97; v=${l#?}` +
		`; case $l in [A-Z]*) v=$(printf "%b." "$v"); v=${v%.};; esac` +
		`; case $l in` +
		` [eE]*) case $v in PATH=*) q=${v#PATH=};; esac; set -- "$@" "$v";;` +
		` h*) set -- "$@" "HOME=$h";;` +
		` [dD]*) w=$v;;` +
		` r*) case $(id -u) in 0) n "uid 0: commands never run as root";; esac;;` +
		` [pP]*) cd -- "$w" 2>/dev/null || n "the working directory cannot be entered"; z=` +
		`; case $v in` +
		` */*) if [ -f "$v" ] && [ -x "$v" ]; then z=$v; fi;;` +
		` *) IFS=:; for t in $q; do case $t in /*) if [ -f "$t/$v" ] && [ -x "$t/$v" ]; then z=$t/$v; break; fi;; esac; done; unset IFS;;` +
		` esac` +
		`; case $z in "") n "no such program, or it is not executable";; *=*) n "the path of the program has an equals sign";; esac` +
		`; set -- "$@" "$z";;` +
		` [aA]*) set -- "$@" "$v";;` +
		` i*) i=1;;` +
		` .) break;;` +
		` *) exit 97;; esac; done`,
	`read -r a b c d g t </proc/$$/stat || n "the login node has no /proc"`,
	`case $g in $$) ;; *) n "the session is not the leader of a process group";; esac`,
	`exec 3<&0`,
	`r() { exec 5>&2 2>/dev/null; printf "\036%sS%s\n" "$m" "$g" && printf "\036%sS\n" "$m" >&5 || exit 98` +
		`; (exec env -i -- "$@" 2>&5 3<&- 5>&-); c=$?; printf "\036%sE%s\n" "$m" "$c"; printf "\036%sE\n" "$m" >&5; kill -KILL 0; }`,
	`k() { while read -r l; do :; done; kill -KILL 0; }`,
	`case $i in 1)` +
		` { while :; do IFS= read -r l || kill -KILL 0; case $l in 0) break;; esac; head -c "$l" || { cat >/dev/null; kill -KILL 0; }; done; exec >&-; k; } <&3 | r "$@";;` +
		` *) k <&3 >/dev/null 2>&1 & r "$@" </dev/null;; esac`,
}, "; ")

// systemPath is the search path of the script itself, and that of commands that
// bring none.
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// commandLine is the one string that sshd gives to the login shell. become is
// "" or the user to switch to; it is a checked name.
func commandLine(become string) string {
	run := "/bin/sh -c '" + script + "'"
	if become == "" {
		return "exec " + run
	}
	// -w: where sudo has made its child a group leader, setsid forks.
	return "exec sudo -n -H -u " + become + " -- setsid -w " + run
}

// killLine ends a process group from another session.
func killLine(become string, group int) string {
	run := "/bin/sh -c 'kill -KILL -$0' " + strconv.Itoa(group)
	if become == "" {
		return "exec " + run
	}
	return "exec sudo -n -H -u " + become + " -- " + run
}

// header encodes a checked command for the script.
type header struct{ b strings.Builder }

func (h *header) line(letter byte, value string) {
	plain := true
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		h.b.WriteByte(letter)
		h.b.WriteString(value)
		h.b.WriteByte('\n')
		return
	}
	h.b.WriteByte(letter - 'a' + 'A')
	for i := range len(value) {
		if c := value[i]; c < ' ' || c > '~' || c == '\\' {
			fmt.Fprintf(&h.b, `\0%03o`, c)
		} else {
			h.b.WriteByte(c)
		}
	}
	h.b.WriteByte('\n')
}
