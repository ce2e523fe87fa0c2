package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
	"sigs.k8s.io/yaml"
)

// Config is a configuration that was understood.
type Config struct {
	Actions []Action
	Tiers   [][]Plugin
	// Metrics say where measured loads of nodes come from.
	Metrics map[string]string
}

// Action is an action that runs, with its arguments.
type Action struct {
	Name      string
	Arguments Arguments
}

// Plugin is a plugin that is asked, with its arguments.
type Plugin struct {
	Name string
	// Switches are the extension points that are named, and whether they are on.
	Switches  map[string]bool
	Arguments Arguments
}

// On reports whether a switch is on; off is only what is said to be.
func (p Plugin) On(name string) bool {
	on, named := p.Switches[name]
	return !named || on
}

// Error is a mistake in the configuration.
type Error struct {
	Path    string // like tiers[0].plugins[2].arguments["binpack.weight"]
	Message string
}

func (e *Error) Error() string { return e.Path + ": " + e.Message }

// reader collects what is wrong and what is of no use.
type reader struct {
	errs     []error
	warnings []string
}

func (r *reader) wrong(path, format string, args ...any) {
	r.errs = append(r.errs, &Error{Path: path, Message: fmt.Sprintf(format, args...)})
}

func (r *reader) unused(path, what, why string) {
	text := path + ": " + what + " is known and not used by this scheduler"
	if why != "" {
		text += ": " + why
	}
	r.warnings = append(r.warnings, text)
}

// maxText bounds a configuration.
const maxText = 1 << 20

// Parse reads Volcano's scheduler configuration. All mistakes are told at once,
// joined; each is an *Error. The warnings are one line each, in the order of the text.
func Parse(text []byte) (Config, []string, error) {
	if len(text) > maxText {
		return Config{}, nil, &Error{Path: "configuration", Message: fmt.Sprintf("has %d bytes, at most %d are read", len(text), maxText)}
	}
	raw, err := readYAML(text)
	if err != nil {
		return Config{}, nil, &Error{Path: "configuration", Message: err.Error()}
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var doc map[string]any
	if err := dec.Decode(&doc); err != nil {
		return Config{}, nil, &Error{Path: "configuration", Message: "must be a map with actions and tiers"}
	}
	r := &reader{}
	c := r.config(doc)
	return c, r.warnings, errors.Join(r.errs...)
}

// readYAML reads YAML as JSON. YAML has numbers that JSON has not, infinite ones and what is
// no number: they are read as their text, so that whatever they are the value of says that
// it is not what is wanted there.
func readYAML(text []byte) ([]byte, error) {
	raw, err := yaml.YAMLToJSONStrict(text)
	var number *json.UnsupportedValueError
	if !errors.As(err, &number) {
		return raw, err //nolint:wrapcheck // it says the line and what is wrong there
	}
	var doc any
	if err := yamlv2.UnmarshalStrict(text, &doc); err != nil {
		return nil, err //nolint:wrapcheck // the same
	}
	if text, err = yamlv2.Marshal(numbersAsText(doc)); err != nil {
		return nil, err //nolint:wrapcheck // the same
	}
	return yaml.YAMLToJSONStrict(text) //nolint:wrapcheck // the same
}

// numbersAsText puts text in place of numbers that JSON has not.
func numbersAsText(v any) any {
	switch x := v.(type) {
	case map[any]any:
		for key, e := range x {
			x[key] = numbersAsText(e)
		}
	case []any:
		for i, e := range x {
			x[i] = numbersAsText(e)
		}
	case float64:
		switch {
		case math.IsNaN(x):
			return ".nan"
		case math.IsInf(x, 1):
			return ".inf"
		case math.IsInf(x, -1):
			return "-.inf"
		}
	}
	return v
}

func (r *reader) config(doc map[string]any) Config {
	var c Config
	for _, key := range keys(doc) {
		switch key {
		case "actions", "tiers", "configurations", "metrics":
		default:
			r.wrong(key, "unknown; the parts are actions, tiers, configurations and metrics")
		}
	}
	c.Actions = r.actions(doc["actions"])
	for _, e := range actions {
		if e.last && !slices.ContainsFunc(c.Actions, func(a Action) bool { return a.Name == e.name }) {
			c.Actions = append(c.Actions, Action{Name: e.name})
		}
	}
	for i, t := range r.list("tiers", doc["tiers"]) {
		c.Tiers = append(c.Tiers, r.tier(fmt.Sprintf("tiers[%d]", i), t))
	}
	for i, e := range r.list("configurations", doc["configurations"]) {
		r.actionArguments(fmt.Sprintf("configurations[%d]", i), e, c.Actions)
	}
	c.Metrics = r.measurements(doc["metrics"])
	r.together(c)
	return c
}

func (r *reader) actions(v any) []Action {
	s, ok := scalarText(v)
	if !ok || s == "" {
		r.wrong("actions", `must be names with commas between, like "enqueue, allocate, backfill"`)
		return nil
	}
	var out []Action
	for _, name := range strings.Split(s, ",") {
		name = strings.TrimSpace(name)
		e := actionOf(name)
		why, past := bygoneActions[name]
		switch {
		case name == "" && strings.Trim(s, ", ") != "": // what it means is plain
			r.warnings = append(r.warnings, "actions: nothing is named between two commas, or before the first or behind the last")
			continue
		case past:
			r.unused("actions", fmt.Sprintf("action %q", name), why)
			continue
		case e == nil:
			r.wrong("actions", "no action is named %q; there are %s", name, strings.Join(actionNames(), ", "))
			continue
		case slices.ContainsFunc(out, func(a Action) bool { return a.Name == name }):
			r.wrong("actions", "%q is there twice", name)
			continue
		case e.make == nil:
			r.unused("actions", fmt.Sprintf("action %q", name), "")
		}
		out = append(out, Action{Name: name})
	}
	return out
}

func (r *reader) tier(path string, v any) []Plugin {
	m, ok := v.(map[string]any)
	if !ok {
		r.wrong(path, "must be a map with plugins")
		return nil
	}
	for _, key := range keys(m) {
		if key != "plugins" {
			r.wrong(path+"."+key, "unknown; a tier has plugins")
		}
	}
	var out []Plugin
	for i, e := range r.list(path+".plugins", m["plugins"]) {
		at := fmt.Sprintf("%s.plugins[%d]", path, i)
		if p, ok := r.plugin(at, e); ok {
			out = append(out, p)
		}
	}
	return out
}

func (r *reader) plugin(path string, v any) (Plugin, bool) {
	m, ok := v.(map[string]any)
	name, _ := scalarText(m["name"])
	if !ok || name == "" {
		r.wrong(path, "must be a map with a name")
		return Plugin{}, false
	}
	if why, past := bygonePlugins[name]; past {
		r.unused(path, fmt.Sprintf("plugin %q", name), why)
		return Plugin{}, false
	}
	e := pluginOf(name)
	if e == nil {
		r.wrong(path+".name", "no plugin is named %q", name)
		return Plugin{}, false
	}
	if e.make == nil && !e.implied {
		r.unused(path, fmt.Sprintf("plugin %q", name), e.why)
	}
	p := Plugin{Name: name, Switches: map[string]bool{}}
	for _, key := range keys(m) {
		if key == "name" || key == "arguments" {
			continue
		}
		sw := switchOf(key)
		if sw == nil {
			r.wrong(path+"."+key, "unknown; a plugin has a name, arguments and switches like enableJobOrder")
			continue
		}
		b, err := arg(key, boolean).read(m[key])
		if err != nil {
			r.wrong(path+"."+key, "%v", err)
			continue
		}
		p.Switches[sw.name] = b.(bool) //nolint:forcetypeassert // boolean reads as bool
		if b == false && slices.Contains(sw.kept, name) {
			r.unused(path+"."+key, "the switch", sw.why)
		}
	}
	p.Arguments = r.arguments(path+".arguments", name, m["arguments"], e.arguments, e.make != nil)
	if url := p.Arguments.Text("extender.urlPrefix", ""); name == "extender" && !isURL(url) {
		r.wrong(path+`.arguments["extender.urlPrefix"]`, "is %q, must be a URL like http://127.0.0.1:8080", url)
	}
	return p, true
}

func (r *reader) actionArguments(path string, v any, actions []Action) {
	m, ok := v.(map[string]any)
	name, _ := scalarText(m["name"])
	if !ok || name == "" {
		r.wrong(path, "must be a map with the name of an action")
		return
	}
	for _, key := range keys(m) {
		if key != "name" && key != "arguments" {
			r.wrong(path+"."+key, "unknown; there are name and arguments")
		}
	}
	if why, past := bygoneActions[name]; past {
		r.unused(path, fmt.Sprintf("action %q", name), why)
		return
	}
	e := actionOf(name)
	if e == nil {
		r.wrong(path+".name", "no action is named %q; there are %s", name, strings.Join(actionNames(), ", "))
		return
	}
	args := r.arguments(path+".arguments", name, m["arguments"], e.arguments, e.make != nil)
	for i := range actions {
		if actions[i].Name == name {
			actions[i].Arguments = args
			return
		}
	}
	r.warnings = append(r.warnings, fmt.Sprintf("%s: action %q is not among the actions", path, name))
}

func (r *reader) arguments(path, owner string, v any, known []argument, warn bool) Arguments {
	out := Arguments{}
	flat := r.flatten(path, v, known)
	for _, key := range keys(flat) {
		at := fmt.Sprintf("%s[%q]", path, key)
		i := slices.IndexFunc(known, func(a argument) bool { return a.matches(key) })
		if why, past := bygone(owner, key); i < 0 && past {
			r.unused(at, "the argument", why)
			continue
		}
		if i < 0 {
			r.wrong(at, "unknown argument%s", choices(known))
			continue
		}
		value, err := known[i].read(flat[key])
		if err != nil {
			r.wrong(at, "%v", err)
			continue
		}
		out[key] = value
		if a := &known[i]; warn && a.idle(value) {
			r.unused(at, "the argument", a.why)
		}
	}
	return out
}

func choices(known []argument) string {
	if len(known) == 0 {
		return "; there are none"
	}
	names := make([]string, 0, len(known))
	for _, a := range known {
		names = append(names, a.name)
	}
	return "; there are " + strings.Join(names, ", ")
}

// flatten joins the keys of maps in maps with dots, but for arguments that are a
// structure of their own.
func (r *reader) flatten(path string, v any, known []argument) map[string]any {
	out := map[string]any{}
	if v == nil {
		return out
	}
	m, ok := v.(map[string]any)
	if !ok {
		r.wrong(path, "must be a map")
		return out
	}
	var walk func(prefix string, m map[string]any)
	walk = func(prefix string, m map[string]any) {
		for key, v := range m {
			name := prefix + key
			sub, nested := v.(map[string]any)
			structure := slices.ContainsFunc(known, func(a argument) bool { return a.kind == anything && a.matches(name) })
			if nested && !structure {
				walk(name+".", sub)
				continue
			}
			out[name] = v
		}
	}
	walk("", m)
	return out
}

func (r *reader) flat(path string, v any) map[string]any { return r.flatten(path, v, nil) }

func (r *reader) list(path string, v any) []any {
	if v == nil {
		return nil
	}
	l, ok := v.([]any)
	if !ok {
		r.wrong(path, "must be a list")
	}
	return l
}

// together checks what cannot be configured beside each other.
func (r *reader) together(c Config) {
	has := func(name string) bool {
		return slices.ContainsFunc(c.Actions, func(a Action) bool { return a.Name == name })
	}
	for _, pair := range [][2]string{{"gangpreempt", "preempt"}, {"gangreclaim", "reclaim"}, {"gangpreempt", "reclaim"}, {"gangreclaim", "preempt"}} {
		if has(pair[0]) && has(pair[1]) {
			r.wrong("actions", "%s cannot be mixed with %s", pair[0], pair[1])
		}
	}
	seen := map[string]string{}
	for i, tier := range c.Tiers {
		for _, p := range tier {
			if at, twice := seen[p.Name]; twice {
				r.wrong(fmt.Sprintf("tiers[%d].plugins", i), "plugin %q is in %s already", p.Name, at)
			}
			seen[p.Name] = fmt.Sprintf("tiers[%d]", i)
			if p.Name == "drf" && p.Switches["enableHierarchy"] {
				seen["drf with enableHierarchy"] = "here"
			}
		}
	}
	if seen["proportion"] != "" && seen["drf with enableHierarchy"] != "" {
		r.wrong("tiers", "plugin proportion cannot be beside drf with enableHierarchy: both say how the cluster is shared")
	}
	if seen["proportion"] != "" && seen["capacity"] != "" {
		r.wrong("tiers", "plugin proportion cannot be beside capacity: both say how the cluster is shared")
	}
}

func keys(m map[string]any) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	sort.Strings(out)
	return out
}
