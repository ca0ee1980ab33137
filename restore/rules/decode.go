package rules

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"sigs.k8s.io/yaml/goyaml.v3"
)

// ErrUnknownProfile is returned by [Set.Profile] for a name the set lacks.
var ErrUnknownProfile = errors.New("unknown profile")

// ConfigError is one fault in a file of profiles.
type ConfigError struct {
	// File is the file or the ConfigMap's key.
	File string
	// Line counts from one; zero when unknown.
	Line int
	// Field is the path of the field, for example profiles[0].hosts[1].from.
	Field string
	// Message says what is wrong with it.
	Message string
}

func (e *ConfigError) Error() string {
	where := e.File
	if e.Line > 0 {
		where = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	if e.Field == "" {
		return where + ": " + e.Message
	}
	return where + ": " + e.Field + ": " + e.Message
}

// follows reports whether a fault may come from another in what is around or in its
// field.
func (e *ConfigError) follows(other *ConfigError) bool {
	return strings.HasPrefix(e.Field, other.Field) || strings.HasPrefix(other.Field, e.Field)
}

// Set is a valid set of profiles with distinct names.
type Set struct {
	profiles map[string]*Profile
}

// Names returns the names of the profiles in order.
func (s *Set) Names() []string { return slices.Sorted(maps.Keys(s.profiles)) }

// Profile returns the profile of the given name, or an error that wraps
// [ErrUnknownProfile] and lists the names there are.
func (s *Set) Profile(name string) (*Profile, error) {
	if p, ok := s.profiles[name]; ok {
		return p, nil
	}
	if len(s.profiles) == 0 {
		return nil, fmt.Errorf("%w %q: there are none", ErrUnknownProfile, name)
	}
	return nil, fmt.Errorf("%w %q; there are: %s", ErrUnknownProfile, name, strings.Join(s.Names(), ", "))
}

// Load decodes and validates files of profiles, each of one or several YAML
// documents. A document may also be a ConfigMap whose data are such files. The
// error joins one [*ConfigError] for every fault found, by file and line.
func Load(files map[string][]byte, languages Languages) (*Set, error) {
	l := &loader{languages: languages, profiles: map[string]*Profile{}}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		l.file(name, 0, files[name])
	}
	if len(l.faults) > 0 {
		var errs []error
		for _, fault := range l.faults {
			errs = append(errs, fault)
		}
		return nil, errors.Join(errs...)
	}
	return &Set{profiles: l.profiles}, nil
}

type loader struct {
	languages Languages
	profiles  map[string]*Profile
	faults    []*ConfigError
}

// file loads one file whose first line is line offset+1 of the file reported.
func (l *loader) file(name string, offset int, content []byte) {
	docs := yaml.NewDecoder(bytes.NewReader(content))
	for {
		var node yaml.Node
		err := docs.Decode(&node)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			l.yamlFaults(name, offset, err)
			return
		}
		if len(node.Content) == 0 || node.Content[0].ShortTag() == "!!null" {
			continue
		}
		l.document(name, offset, node.Content[0])
	}
}

func (l *loader) document(file string, offset int, node *yaml.Node) {
	// Decoding first makes sure that aliases neither loop nor explode.
	var value any
	if err := node.Decode(&value); err != nil {
		l.yamlFaults(file, offset, err)
		return
	}
	if data, ok := configMapData(node); ok {
		for i := 0; i+1 < len(data.Content); i += 2 {
			key, text := data.Content[i], data.Content[i+1]
			l.file(file+" ("+key.Value+")", offset+text.Line, []byte(text.Value))
		}
		return
	}
	before := len(l.faults)
	defer func() {
		slices.SortStableFunc(l.faults[before:], func(a, b *ConfigError) int { return a.Line - b.Line })
	}()
	d := &checker{languages: l.languages, file: file, offset: offset, lines: map[string]int{}}
	d.check(node, reflect.TypeFor[document](), "")
	var doc document
	mistyped := d.faults
	if len(mistyped) > 0 {
		// What is of a wrong type is taken out of the tree, so that the rest is looked at.
		value = nil
		if err := node.Decode(&value); err != nil {
			value = nil
		}
	}
	switch err := convert(value, &doc); {
	case err == nil:
		validate(d, &doc)
	case len(mistyped) == 0:
		d.fault("", "%s", err)
	}
	l.faults = append(l.faults, mistyped...)
	for _, fault := range d.faults[len(mistyped):] {
		if !slices.ContainsFunc(mistyped, fault.follows) {
			l.faults = append(l.faults, fault)
		}
	}
	for i := range doc.Profiles {
		p := &doc.Profiles[i]
		p.effective = &sync.Map{}
		field := fmt.Sprintf("profiles[%d]", i)
		p.source = fmt.Sprintf("%s:%d", file, d.line(field))
		if other, ok := l.profiles[p.Name]; ok && p.Name != "" {
			l.faults = append(l.faults, &ConfigError{
				File: file, Line: d.line(field), Field: field,
				Message: fmt.Sprintf("a profile named %q is at %s already", p.Name, other.source),
			})
			continue
		}
		l.profiles[p.Name] = p
	}
}

// configMapData returns the data of a document that is a ConfigMap.
func configMapData(node *yaml.Node) (*yaml.Node, bool) {
	var kind, data *yaml.Node
	if node.Kind != yaml.MappingNode {
		return nil, false
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		switch node.Content[i].Value {
		case "kind":
			kind = node.Content[i+1]
		case "data":
			data = node.Content[i+1]
		}
	}
	if kind == nil || kind.Value != "ConfigMap" || data == nil || data.Kind != yaml.MappingNode {
		return nil, false
	}
	return data, true
}

func convert(value any, into *document) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

var yamlLine = regexp.MustCompile(`^line (\d+): (.*)$`)

// yamlFaults takes over what the YAML parser complains of.
func (l *loader) yamlFaults(file string, offset int, err error) {
	messages := []string{strings.TrimPrefix(err.Error(), "yaml: ")}
	if several := (*yaml.TypeError)(nil); errors.As(err, &several) {
		messages = several.Errors
	}
	for _, message := range messages {
		fault := &ConfigError{File: file, Message: message}
		if m := yamlLine.FindStringSubmatch(message); m != nil {
			line, _ := strconv.Atoi(m[1])
			fault.Line, fault.Message = offset+line, m[2]
		}
		l.faults = append(l.faults, fault)
	}
}

// checker compares a tree of YAML nodes with a Go type, which is the schema.
type checker struct {
	languages Languages
	file      string
	offset    int
	lines     map[string]int // by field
	faults    []*ConfigError
}

func (c *checker) fault(field, format string, args ...any) {
	c.faults = append(c.faults, &ConfigError{
		File: c.file, Line: c.line(field), Field: field, Message: fmt.Sprintf(format, args...),
	})
}

// line returns the line of a field or of the nearest field around it.
func (c *checker) line(field string) int {
	for {
		if line, ok := c.lines[field]; ok {
			return line
		}
		i := strings.LastIndexAny(field, ".[")
		if i < 0 {
			return c.lines[""]
		}
		field = field[:i]
	}
}

func (c *checker) check(node *yaml.Node, want reflect.Type, field string) {
	if _, ok := c.lines[field]; !ok {
		c.lines[field] = c.offset + node.Line
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if want == reflect.TypeFor[json.RawMessage]() {
		c.locate(node, field)
		return
	}
	switch want.Kind() {
	case reflect.Pointer:
		c.check(node, want.Elem(), field)
	case reflect.Struct:
		if c.is(node, yaml.MappingNode, "!!map", field) {
			c.checkStruct(node, want, field)
		}
	case reflect.Map:
		if c.is(node, yaml.MappingNode, "!!map", field) {
			c.entries(node, field, func(key string, value *yaml.Node) {
				c.check(value, want.Elem(), field+"["+key+"]")
			})
		}
	case reflect.Slice:
		if c.is(node, yaml.SequenceNode, "!!seq", field) {
			for i, item := range node.Content {
				c.check(item, want.Elem(), fmt.Sprintf("%s[%d]", field, i))
			}
		}
	case reflect.Bool:
		c.is(node, yaml.ScalarNode, "!!bool", field)
	case reflect.Int64:
		c.is(node, yaml.ScalarNode, "!!int", field)
	default:
		c.is(node, yaml.ScalarNode, "!!str", field)
	}
}

func (c *checker) checkStruct(node *yaml.Node, want reflect.Type, field string) {
	fields := map[string]reflect.Type{}
	for _, f := range reflect.VisibleFields(want) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" {
			fields[name] = f.Type
		}
	}
	c.entries(node, field, func(key string, value *yaml.Node) {
		path := strings.TrimPrefix(field+"."+key, ".")
		t, ok := fields[key]
		switch {
		case !ok:
			c.lines[path] = c.offset + value.Line
			c.fault(path, "unknown field; %s", suggest(key, slices.Collect(maps.Keys(fields))))
		case value.ShortTag() == "!!null" && t.Kind() != reflect.String:
			// An empty field is an absent one.
		default:
			c.check(value, t, path)
		}
	})
}

// locate notes the lines in a part that may hold anything.
func (c *checker) locate(node *yaml.Node, field string) {
	c.lines[field] = c.offset + node.Line
	switch node.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(node.Content); i += 2 {
			c.locate(node.Content[i+1], field+"."+node.Content[i].Value)
		}
	case yaml.SequenceNode:
		for i, item := range node.Content {
			c.locate(item, fmt.Sprintf("%s[%d]", field, i))
		}
	}
}

// entries visits the entries of a mapping, those merged into it included.
func (c *checker) entries(node *yaml.Node, field string, visit func(key string, value *yaml.Node)) {
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.ShortTag() == "!!merge" {
			for _, merged := range mergedMappings(value) {
				c.entries(merged, field, visit)
			}
			continue
		}
		if key.Kind != yaml.ScalarNode || key.ShortTag() != "!!str" {
			c.lines[field] = c.offset + key.Line
			c.fault(field, "a key must be a string, not %s; quote it", kindName(key))
			continue
		}
		visit(key.Value, value)
	}
}

func mergedMappings(node *yaml.Node) []*yaml.Node {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	switch node.Kind {
	case yaml.MappingNode:
		return []*yaml.Node{node}
	case yaml.SequenceNode:
		var all []*yaml.Node
		for _, item := range node.Content {
			all = append(all, mergedMappings(item)...)
		}
		return all
	}
	return nil
}

func (c *checker) is(node *yaml.Node, kind yaml.Kind, tag, field string) bool {
	if node.Kind == kind && node.ShortTag() == tag {
		return true
	}
	hint := ""
	if tag == "!!str" && node.Kind == yaml.ScalarNode && node.ShortTag() != "!!null" {
		hint = "; quote it"
	}
	c.fault(field, "want %s, got %s%s", tagNames[tag], kindName(node), hint)
	*node = yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Line: node.Line}
	return false
}

var tagNames = map[string]string{
	"!!map": "a mapping", "!!seq": "a list", "!!str": "a string",
	"!!int": "a whole number", "!!float": "a number", "!!bool": "true or false",
	"!!null": "nothing", "!!timestamp": "a date", "!!binary": "binary data",
}

func kindName(node *yaml.Node) string {
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if name, ok := tagNames[node.ShortTag()]; ok {
		return name
	}
	return "a value tagged " + node.ShortTag()
}
