package rules

// Expression evaluates a compiled expression over an object.
type Expression = func(object map[string]any) (any, error)

// Languages compiles what a profile says in languages that others have
// libraries for, so that the engine needs none. Package restore/expr has them.
// What it returns must be safe for concurrent use, and must not change the
// objects it is given.
type Languages interface {
	// Condition compiles a CEL expression over the variable object that yields
	// true or false. Over an object without a field that is named it yields false.
	Condition(source string) (Expression, error)
	// Value compiles a CEL expression over the variable object. It yields values
	// as an unstructured object holds them.
	Value(source string) (Expression, error)
	// JSONPatch compiles a patch of RFC 6902. It yields the patched copy of an
	// object.
	JSONPatch(operations []byte) (Expression, error)
}
