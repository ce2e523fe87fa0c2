package config

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// kind is the type of an argument's value.
type kind int

const (
	boolean  kind = iota
	integer       // not negative
	number        // not negative, may have a fraction
	text          // anything in one line
	duration      // of Go's form, positive
	words         // a list, or words with commas between
	anything      // a structure of its own, kept as it is
)

// argument is an argument that is known.
type argument struct {
	// name may have one "*", which stands for a part that is not empty.
	name string
	kind kind
	// from is the least an integer, a number or, in seconds, a time may be.
	from float64
	// oneOf are the values that a text may have; nil is any.
	oneOf []string
	// check, when set, says what is wrong with a text.
	check func(string) error
	// verify, when set, says what is wrong with a structure.
	verify func(any) error
	// used says that something here obeys it.
	used bool
	// why it is not used.
	why string
	// always, when set, is the one value that is obeyed, since it is what always is.
	always any
}

func arg(name string, k kind) argument { return argument{name: name, kind: k} }

// obeyed marks an argument that something obeys.
func (a argument) obeyed() argument { a.used = true; return a }

// unused says why nothing obeys an argument.
func (a argument) unused(why string) argument { a.why = why; return a }

// only marks an argument of which one value is what always is, and says why no other is
// obeyed.
func (a argument) only(v any, why string) argument { a.always, a.why = v, why; return a }

// idle reports whether a value is not obeyed.
func (a argument) idle(v any) bool { return !a.used && (a.always == nil || a.always != v) }

func (a argument) atLeast(v float64) argument   { a.from = v; return a }
func (a argument) either(vs ...string) argument { a.oneOf = vs; return a }

// unused are arguments that nothing obeys, for one reason.
func unused(k kind, why string, names ...string) (as []argument) {
	for _, n := range names {
		as = append(as, arg(n, k).unused(why))
	}
	return as
}

// only are switches of which one value is what always is.
func only(v bool, why string, names ...string) (as []argument) {
	for _, n := range names {
		as = append(as, arg(n, boolean).only(v, why))
	}
	return as
}

// checked has a text looked at.
func (a argument) checked(f func(string) error) argument { a.check = f; return a }

// verified has a structure looked at.
func (a argument) verified(f func(any) error) argument { a.verify = f; return a }

// matches reports whether a key is the argument.
func (a argument) matches(key string) bool {
	before, after, any := strings.Cut(a.name, "*")
	if !any {
		return key == a.name
	}
	return len(key) > len(before)+len(after) && strings.HasPrefix(key, before) && strings.HasSuffix(key, after)
}

// Arguments are typed values by name: bool, int64, float64, string,
// time.Duration, []string, or a decoded structure.
type Arguments map[string]any

// Bool returns an argument, or other when it is not set.
func (a Arguments) Bool(name string, other bool) bool { return get(a, name, other) }

// Int returns an argument, or other when it is not set.
func (a Arguments) Int(name string, other int64) int64 { return get(a, name, other) }

// Float returns an argument, or other when it is not set.
func (a Arguments) Float(name string, other float64) float64 { return get(a, name, other) }

// Text returns an argument, or other when it is not set.
func (a Arguments) Text(name, other string) string { return get(a, name, other) }

// Duration returns an argument, or other when it is not set.
func (a Arguments) Duration(name string, other time.Duration) time.Duration {
	return get(a, name, other)
}

// Names returns the arguments that are set and begin with a prefix, in order.
func (a Arguments) Names(prefix string) []string {
	var out []string
	for name := range a {
		if strings.HasPrefix(name, prefix) {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return out
}

func get[T any](a Arguments, name string, other T) T {
	if v, ok := a[name].(T); ok {
		return v
	}
	return other
}

// read converts a decoded value to the argument's type. Numbers and booleans are taken as
// text as well, as the first releases of Volcano wanted them; later ones pass such text over
// and say so in their log alone.
func (a argument) read(v any) (any, error) {
	s, scalar := scalarText(v)
	switch a.kind {
	case anything:
		if a.verify != nil {
			return v, a.verify(v)
		}
		return v, nil
	case words:
		if list, ok := v.([]any); ok {
			return readWords(list)
		}
		if !scalar {
			return nil, fmt.Errorf("must be a list of words")
		}
		return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' }), nil
	}
	if !scalar {
		return nil, fmt.Errorf("must be a single value")
	}
	switch a.kind {
	case boolean:
		b, err := strconv.ParseBool(s)
		if err != nil {
			return nil, fmt.Errorf("is %q, must be true or false", s)
		}
		return b, nil
	case integer:
		n, err := wholeNumber(s)
		if err == nil && float64(n) < a.from {
			err = errors.New("is less")
		}
		if err != nil {
			return nil, fmt.Errorf("is %q, must be a whole number of at least %g; it %w", s, a.from, err)
		}
		return n, nil
	case number:
		f, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsInf(f, 0) || !(f >= a.from) { // not a number is not at least anything
			return nil, fmt.Errorf("is %q, must be a number of at least %g", s, a.from)
		}
		return f, nil
	case duration:
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return nil, fmt.Errorf(`is %q, must be a time like "30s" or "1h"`, s)
		}
		if d.Seconds() < a.from {
			return nil, fmt.Errorf("is %q, must be at least %s", s, time.Duration(a.from)*time.Second)
		}
		return d, nil
	}
	if a.check != nil {
		if err := a.check(s); err != nil {
			return nil, err
		}
	}
	if a.oneOf != nil && !slices.Contains(a.oneOf, s) {
		return nil, fmt.Errorf("is %q, must be one of %s", s, strings.Join(a.oneOf, ", "))
	}
	return s, nil
}

// wholeNumber reads a whole number that may be written with decimals that are none ("1.0")
// or with an exponent ("1e3"), as unquoted numbers may be. The error says what else it is.
func wholeNumber(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	f, err := strconv.ParseFloat(s, 64)
	switch {
	case math.IsNaN(f) || err != nil && !errors.Is(err, strconv.ErrRange):
		return 0, errors.New("is no number")
	case f <= -maxWhole:
		return 0, errors.New("is less")
	case f >= maxWhole:
		return 0, errors.New("is too large")
	case f != math.Trunc(f):
		return 0, errors.New("has a fraction")
	}
	return int64(f), nil
}

// maxWhole is where numbers that may have a fraction no longer tell whole ones apart.
const maxWhole = 1 << 53

func readWords(list []any) (any, error) {
	out := []string{}
	for _, e := range list {
		s, ok := scalarText(e)
		if !ok {
			return nil, fmt.Errorf("must be a list of words")
		}
		out = append(out, s)
	}
	return out, nil
}

func scalarText(v any) (string, bool) {
	switch x := v.(type) {
	case string:
		return strings.TrimSpace(x), true
	case bool:
		return strconv.FormatBool(x), true
	case json.Number:
		return x.String(), true
	}
	return "", false
}
