package slurmrest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"time"
)

// maxListed bounds the elements of one list.
const maxListed = 1_000_000

// reply is what every reply has in common.
type reply struct {
	Errors  []apiError
	Release string // of Slurm, "" when it was not told
}

// apiError is one error of a reply. v0.0.38 has three names for its number.
type apiError struct {
	Number      number `json:"error_number"`
	Code        number `json:"error_code"`
	Errno       number `json:"errno"`
	Text        text   `json:"error"`
	Description text   `json:"description"`
}

// number is Slurm's number, 0 when there is none and -1 for "unspecified".
func (e apiError) number() int {
	for _, n := range []number{e.Number, e.Code, e.Errno} {
		if n.set && n.n != 0 {
			return int(max(-1, min(n.n, math.MaxInt32)))
		}
	}
	return 0
}

func (e apiError) String() string {
	var words []string
	for _, w := range []string{e.Text.v, e.Description.v} {
		if w != "" {
			words = append(words, w)
		}
	}
	out := printable(strings.Join(words, ": "))
	if n := e.number(); n > 0 {
		out = fmt.Sprintf("%s (%d)", out, n)
	}
	return out
}

// printable bounds a server's text and makes it one line.
func printable(s string) string {
	if len(s) > 512 {
		s = s[:512]
	}
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.Join(strings.Fields(s), " ")
}

// decode reads one reply whole. Members named in on are given to their
// functions as they come, so that a long list is never held as text; members
// that nobody asked for are passed over. Half a reply is an error.
func decode(r io.Reader, on map[string]func(*json.Decoder) error) (reply, error) {
	var out reply
	source := &paced{Reader: r}
	dec := json.NewDecoder(source)
	source.dec = dec
	seen := map[string]bool{}
	err := members(dec, func(name string) error {
		if seen[name] {
			return fmt.Errorf("member %.40q is there twice", name)
		}
		seen[name] = true
		switch name {
		case "errors":
			return each(dec, func() error {
				var e apiError
				err := dec.Decode(&e)
				out.Errors = append(out.Errors, e)
				return err
			})
		case "meta":
			var err error
			out.Release, err = release(dec)
			return err
		}
		if f := on[name]; f != nil {
			return f(dec)
		}
		var skipped json.RawMessage
		return dec.Decode(&skipped)
	})
	if err != nil {
		return reply{}, err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return reply{}, errors.New("something follows the reply")
	}
	return out, nil
}

// maxValue bounds one job, host or other value, which the decoder holds whole, in
// a buffer that it doubles: Slurm lets a job carry 4 MiB.
const maxValue = 8 << 20

// paced refuses to read on when the decoder is that far behind.
type paced struct {
	io.Reader
	dec  *json.Decoder
	read int64
}

// Read implements io.Reader.
func (p *paced) Read(b []byte) (int, error) {
	if p.dec != nil && p.read-p.dec.InputOffset() > maxValue {
		return 0, fmt.Errorf("a single value is larger than %d bytes", maxValue)
	}
	n, err := p.Reader.Read(b)
	p.read += int64(n)
	return n, err
}

// release reads the release of Slurm; its key is "Slurm" in v0.0.38 and
// "slurm" later, which are one to encoding/json.
func release(dec *json.Decoder) (string, error) {
	var meta struct {
		Slurm struct {
			Release text `json:"release"`
		} `json:"slurm"`
	}
	if err := dec.Decode(&meta); err != nil {
		return "", fmt.Errorf("meta: %w", err)
	}
	return printable(meta.Slurm.Release.v), nil
}

// members calls f for each member of an object, whose value f reads.
func members(dec *json.Decoder, f func(name string) error) error {
	if err := delimiter(dec, '{'); err != nil {
		return err
	}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return errors.New("a member has no name")
		}
		if err := f(name); err != nil {
			return fmt.Errorf("%.40s: %w", name, err)
		}
	}
	return delimiter(dec, '}')
}

// each calls f for each element of a list, which f reads.
func each(dec *json.Decoder, f func() error) error {
	if err := delimiter(dec, '['); err != nil {
		return err
	}
	for i := 0; dec.More(); i++ {
		if i == maxListed {
			return fmt.Errorf("more than %d elements", maxListed)
		}
		if err := f(); err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return delimiter(dec, ']')
}

func delimiter(dec *json.Decoder, want json.Delim) error {
	t, err := dec.Token()
	if err != nil {
		return err
	}
	if t != want {
		return fmt.Errorf("want %s", want)
	}
	return nil
}

// number is a whole number as the dialects write it: plain, null, or
// {"set": true, "infinite": false, "number": 3}.
type number struct {
	seen, set, infinite bool
	n                   int64
}

// UnmarshalJSON reads any of the forms.
func (v *number) UnmarshalJSON(raw []byte) error {
	*v = number{seen: true}
	switch {
	case bytes.Equal(raw, []byte("null")):
		return nil
	case raw[0] == '{':
		var parts struct {
			Set      *bool        `json:"set"`
			Infinite *bool        `json:"infinite"`
			Number   *json.Number `json:"number"`
		}
		if err := json.Unmarshal(raw, &parts); err != nil {
			return err
		}
		if parts.Set == nil || parts.Number == nil {
			return errors.New("a number lacks \"set\" or \"number\"")
		}
		v.set, v.infinite = *parts.Set, parts.Infinite != nil && *parts.Infinite
		n, err := parts.Number.Int64()
		v.n = n
		if !v.set {
			v.n = 0
		}
		return err
	}
	v.set = true
	if err := json.Unmarshal(raw, &v.n); err != nil {
		return fmt.Errorf("%.40q is not a whole number", raw)
	}
	return nil
}

// noValue are the numbers that stand for none and for no limit in the versions
// that write plain ones.
const noValue = math.MaxUint32 - 1

// amount is a number that counts something: at least 0, and 0 when not set.
func (v number) amount(name string) (int64, error) {
	switch {
	case !v.seen:
		return 0, fmt.Errorf("%s is missing", name)
	case !v.set:
		return 0, nil
	case v.n < 0 || v.n > 1<<50:
		return 0, fmt.Errorf("%s: %d is not an amount", name, v.n)
	}
	return v.n, nil
}

// minutes is a time limit; 0 stands for unlimited and for none.
func (v number) minutes(name string) (time.Duration, error) {
	switch {
	case !v.seen:
		return 0, fmt.Errorf("%s is missing", name)
	case !v.set || v.infinite || v.n == -1 || v.n == noValue || v.n == noValue+1:
		return 0, nil
	case v.n < 0 || v.n > 1<<32:
		return 0, fmt.Errorf("%s: %d is not a number of minutes", name, v.n)
	}
	return time.Duration(v.n) * time.Minute, nil
}

// when is a time in seconds since the epoch; 0 is none.
func (v number) when(name string) (time.Time, error) {
	n, err := v.amount(name)
	if err != nil || n == 0 || n == noValue || n == noValue+1 {
		return time.Time{}, err
	}
	if n > 1<<40 {
		return time.Time{}, fmt.Errorf("%s: %d is not a time", name, n)
	}
	return time.Unix(n, 0).UTC(), nil
}

// text is a string or null.
type text struct {
	seen bool
	v    string
}

// UnmarshalJSON reads either.
func (v *text) UnmarshalJSON(raw []byte) error {
	*v = text{seen: true}
	return json.Unmarshal(raw, &v.v)
}

// words is a list of strings, which older versions write as one string.
type words struct {
	seen bool
	v    []string
}

// UnmarshalJSON reads either.
func (v *words) UnmarshalJSON(raw []byte) error {
	*v = words{seen: true}
	if raw[0] != '"' {
		return json.Unmarshal(raw, &v.v)
	}
	var one string
	if err := json.Unmarshal(raw, &one); err != nil {
		return err
	}
	if one != "" {
		v.v = strings.Split(one, ",")
	}
	return nil
}

// exit is how a job's batch script ended: a wait status to v0.0.38, an object
// later.
type exit struct {
	seen         bool
	code, signal int
}

// UnmarshalJSON reads either.
func (v *exit) UnmarshalJSON(raw []byte) error {
	*v = exit{seen: true}
	if raw[0] != '{' {
		var n number
		if err := n.UnmarshalJSON(raw); err != nil {
			return err
		}
		if n.n < 0 || n.n > math.MaxUint32 {
			return fmt.Errorf("%d is not a wait status", n.n)
		}
		v.code, v.signal = int(n.n>>8&0xff), int(n.n&0x7f)
		return nil
	}
	var parts struct {
		Code   number `json:"return_code"`
		Signal struct {
			ID  number `json:"id"`
			Old number `json:"signal_id"` // v0.0.39
		} `json:"signal"`
	}
	if err := json.Unmarshal(raw, &parts); err != nil {
		return err
	}
	signal := parts.Signal.ID
	if !signal.seen {
		signal = parts.Signal.Old
	}
	for _, part := range []struct {
		name string
		from number
		into *int
	}{{"return_code", parts.Code, &v.code}, {"signal.id", signal, &v.signal}} {
		n, err := part.from.amount(part.name)
		if err != nil || n > 255 {
			return errors.Join(err, fmt.Errorf("%s: %d", part.name, n))
		}
		*part.into = int(n)
	}
	return nil
}
