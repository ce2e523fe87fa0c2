package pbs

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
)

const (
	// maxLine bounds one line of an answer and maxBlock all lines of one object:
	// a job's variables alone may have many kilobytes.
	maxLine  = 4 << 20
	maxBlock = 16 << 20
)

// block is one object of an answer: a job, a queue, a server or a vnode, with
// its attributes. Names are in lower case, since the dialects write them
// differently.
type block struct {
	name  string
	attrs map[string]string
}

// get gives the value of an attribute, "" when it is missing.
func (b *block) get(name string) string { return b.attrs[name] }

// first gives the value of the first of the names that is there.
func (b *block) first(names ...string) string {
	for _, n := range names {
		if v := b.attrs[n]; v != "" {
			return v
		}
	}
	return ""
}

// reader reads the form of "qstat -f" as it comes:
//
//	Job Id: 9.pbs
//	    Job_Name = isth-9f3a2b
//	    Variable_List = PBS_O_HOME=/home/pbsuser,PBS_O_LANG=C.UTF-8,
//		PBS_O_QUEUE=workq
//
// A line that starts with a tab goes on with the value before it. Values are
// whatever a user likes and may hold line ends, so a line of another form
// belongs to the value before it too; the first of two equal attributes counts,
// since the server's own come before those.
type reader struct {
	heads []string // what a line that begins an object starts with: "Job Id: "
	emit  func(*block) error

	rest  []byte // the beginning of a line
	now   *block
	last  string // attribute that continuation lines belong to; "" is one to be dropped
	bytes int
	err   error
}

var errLongAnswer = errors.New("the answer has a line or an object that is too long")

// Write takes the next part of the answer. After an error it takes all and
// does nothing: the error is close's.
func (r *reader) Write(p []byte) (int, error) {
	n := len(p)
	for r.err == nil {
		line, after, whole := bytes.Cut(p, []byte("\n"))
		if len(r.rest)+len(line) > maxLine {
			r.err = errLongAnswer
			break
		}
		if !whole {
			r.rest = append(r.rest, line...)
			break
		}
		if len(r.rest) > 0 {
			line = append(r.rest, line...)
		}
		r.err = r.line(string(line))
		r.rest, p = r.rest[:0], after
	}
	return n, nil
}

// close ends the answer and gives the first error. An answer that stops within
// a line is an error: half an answer hides objects.
func (r *reader) close() error {
	switch {
	case r.err != nil:
		return r.err
	case len(r.rest) > 0:
		return fmt.Errorf("the answer ends within the line %.60q", r.rest)
	}
	return r.flush()
}

func (r *reader) flush() error {
	done := r.now
	r.now, r.last, r.bytes = nil, "", 0
	if done == nil {
		return nil
	}
	return r.emit(done)
}

func (r *reader) line(line string) error {
	for _, head := range r.heads {
		if name, ok := strings.CutPrefix(line, head); ok {
			if err := r.flush(); err != nil {
				return err
			}
			r.now = &block{name: strings.TrimSpace(name), attrs: map[string]string{}}
			return nil
		}
	}
	if r.now == nil {
		// A banner of the site before the answer.
		return nil
	}
	if r.bytes += len(line); r.bytes > maxBlock {
		return errLongAnswer
	}
	if rest, ok := strings.CutPrefix(line, "\t"); ok {
		r.more(rest)
		return nil
	}
	if name, value, ok := attribute(line); ok {
		r.last = ""
		if _, twice := r.now.attrs[name]; !twice {
			r.now.attrs[name], r.last = value, name
		}
		return nil
	}
	if line != "" {
		r.more("\n" + line)
	}
	return nil
}

// more goes on with the value of the last attribute.
func (r *reader) more(text string) {
	if r.last != "" {
		r.now.attrs[r.last] += text
	}
}

// attribute reads "    name = value". pbs_rstat writes it without the blanks,
// pbsnodes with five.
func attribute(line string) (name, value string, ok bool) {
	bare := strings.TrimLeft(line, " ")
	if len(bare) == len(line) {
		return "", "", false
	}
	name, value, ok = strings.Cut(bare, " =")
	if !ok || name == "" || value != "" && value[0] != ' ' {
		return "", "", false
	}
	for _, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '_' && c != '.' && c != '-' {
			return "", "", false
		}
	}
	return strings.ToLower(name), strings.TrimPrefix(value, " "), true
}

// read reads a whole answer.
func read(text string, heads ...string) ([]*block, error) {
	var all []*block
	r := &reader{heads: heads, emit: func(b *block) error {
		if len(all) >= maxHosts {
			return fmt.Errorf("more than %d objects", maxHosts)
		}
		all = append(all, b)
		return nil
	}}
	_, _ = r.Write([]byte(text)) // its errors are close's
	return all, r.close()
}

// variable finds a variable in a job's Variable_List: entries are separated by
// commas, and a comma within a value has a backslash before it.
func variable(list, name string) string {
	start := 0
	for i := 0; i <= len(list); i++ {
		if i < len(list) && list[i] == '\\' {
			i++
			continue
		}
		if i < len(list) && list[i] != ',' {
			continue
		}
		if i > len(list) {
			break
		}
		if v, ok := strings.CutPrefix(list[start:i], name+"="); ok {
			return v
		}
		start = i + 1
	}
	return ""
}
