// Package expr gives the rule engine in restore/rules the languages that have
// libraries of their own: CEL, and JSON Patch (RFC 6902).
package expr

import (
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strings"

	jsonpatch "github.com/evanphx/json-patch/v5"
	"github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/ext"
	"google.golang.org/protobuf/types/known/structpb"
	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// costLimit ends an expression that would take too long, in CEL's units: about a
// tenth of a second, and far more than a look at one object takes.
const costLimit = 100_000

// Expression is an expression or a patch, compiled.
type Expression = func(object map[string]any) (any, error)

// Languages are what the engine calls Languages.
type Languages struct {
	env *cel.Env
}

// New returns the languages. In CEL an object is the variable object, as in
// admission policies, and the library has CEL's string, list and math functions
// and optional values.
func New() *Languages {
	env, err := cel.NewEnv(
		cel.Variable("object", cel.DynType),
		cel.OptionalTypes(),
		ext.Strings(), ext.Lists(), ext.Math(), ext.Sets(),
	)
	if err != nil {
		panic(err) // nothing in it comes from outside
	}
	return &Languages{env}
}

// Condition compiles a CEL expression that yields true or false, and false when
// the object lacks a field that is named.
func (l *Languages) Condition(source string) (Expression, error) {
	run, err := l.compile(source, func(t *cel.Type) error {
		if t.IsExactType(cel.BoolType) || t.IsExactType(cel.DynType) {
			return nil
		}
		return fmt.Errorf("want an expression that is true or false, got one of type %s", t)
	})
	if err != nil {
		return nil, err
	}
	return func(object map[string]any) (any, error) {
		out, err := run(object)
		switch {
		case err != nil && strings.HasPrefix(err.Error(), "no such key"):
			return false, nil
		case err != nil:
			return nil, err
		case out.Type() != types.BoolType:
			return nil, fmt.Errorf("want true or false, got %s", out.Type().TypeName())
		}
		return out.Value(), nil
	}, nil
}

// Value compiles a CEL expression. It yields values as an unstructured object
// holds them.
func (l *Languages) Value(source string) (Expression, error) {
	run, err := l.compile(source, func(*cel.Type) error { return nil })
	if err != nil {
		return nil, err
	}
	return func(object map[string]any) (any, error) {
		out, err := run(object)
		if err != nil {
			return nil, err
		}
		return plain(out)
	}, nil
}

func (l *Languages) compile(source string, check func(*cel.Type) error) (func(map[string]any) (ref.Val, error), error) {
	ast, issues := l.env.Compile(source)
	if issues.Err() != nil {
		first := issues.Errors()[0]
		return nil, fmt.Errorf("column %d: %s", first.Location.Column()+1, first.Message)
	}
	if err := check(ast.OutputType()); err != nil {
		return nil, err
	}
	program, err := l.env.Program(ast, cel.CostLimit(costLimit))
	if err != nil {
		return nil, err
	}
	return func(object map[string]any) (ref.Val, error) {
		out, _, err := program.Eval(map[string]any{"object": object})
		return out, err
	}, nil
}

// plain returns a value as an unstructured object holds it.
func plain(v ref.Val) (any, error) {
	native, err := v.ConvertToNative(reflect.TypeFor[*structpb.Value]())
	if err != nil {
		return nil, err
	}
	return whole(native.(*structpb.Value).AsInterface()), nil
}

// whole makes integers of the numbers that are whole, as apimachinery reads
// JSON.
func whole(value any) any {
	switch v := value.(type) {
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
			return int64(v)
		}
	case map[string]any:
		for key, item := range v {
			v[key] = whole(item)
		}
	case []any:
		for i, item := range v {
			v[i] = whole(item)
		}
	}
	return value
}

// JSONPatch compiles a patch that yields the patched copy of an object.
func (*Languages) JSONPatch(operations []byte) (Expression, error) {
	patch, err := jsonpatch.DecodePatch(operations)
	if err != nil {
		return nil, err
	}
	return func(object map[string]any) (any, error) {
		before, err := json.Marshal(object)
		if err != nil {
			return nil, err
		}
		after, err := patch.Apply(before)
		if err != nil {
			return nil, err
		}
		var out map[string]any
		if err := utiljson.Unmarshal(after, &out); err != nil {
			return nil, err
		}
		return out, nil
	}, nil
}
