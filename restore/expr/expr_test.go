package expr

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func object() map[string]any {
	return map[string]any{
		"metadata": map[string]any{"name": "web", "labels": map[string]any{"tier": "front"}},
		"spec":     map[string]any{"replicas": int64(10), "ratio": 0.5, "hosts": []any{"a.example.org"}},
	}
}

func TestCondition(t *testing.T) {
	t.Parallel()
	tests := []struct {
		source string
		want   any
	}{
		{`object.spec.replicas > 2`, true},
		{`object.metadata.labels.tier == "back"`, false},
		{`object.spec.hosts.exists(h, h.endsWith(".example.org"))`, true},
		{`object.spec.missing > 2`, false},
		{`has(object.spec.missing) || object.metadata.name.startsWith("we")`, true},
		{`object.?spec.missing.orValue(3) == 3`, true},
	}
	for _, tt := range tests {
		t.Run(tt.source, func(t *testing.T) {
			t.Parallel()
			holds, err := New().Condition(tt.source)
			require.NoError(t, err)
			obj := object()
			got, err := holds(obj)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, object(), obj, "the object is as it was")
		})
	}
}

func TestCondition_refuses(t *testing.T) {
	t.Parallel()
	for source, want := range map[string]string{
		`object.spec.replicas +`: `column 23: Syntax error: mismatched input '<EOF>' expecting`,
		`objekt.spec`:            `column 1: undeclared reference to 'objekt' (in container '')`,
		`"yes"`:                  `want an expression that is true or false, got one of type string`,
		`size(1, 2)`:             `column 5: found no matching overload for 'size'`,
	} {
		_, err := New().Condition(source)
		assert.ErrorContains(t, err, want, source)
	}
	holds, err := New().Condition(`object.spec.replicas`)
	require.NoError(t, err)
	_, err = holds(object())
	assert.EqualError(t, err, "want true or false, got int")
	holds, err = New().Condition(`object.spec.hosts[3] == "a"`)
	require.NoError(t, err)
	_, err = holds(object())
	assert.EqualError(t, err, "index out of bounds: 3")
}

func TestValue(t *testing.T) {
	t.Parallel()
	tests := []struct {
		source string
		want   any
	}{
		{`math.least(object.spec.replicas, 2)`, int64(2)},
		{`object.spec.ratio`, 0.5},
		{`object.spec.hosts.map(h, h.replace("example", "drill"))`, []any{"a.drill.org"}},
		{`{"a": object.spec.replicas, "b": [true, null]}`, map[string]any{"a": int64(10), "b": []any{true, nil}}},
		{`object.metadata.labels`, map[string]any{"tier": "front"}},
	}
	for _, tt := range tests {
		t.Run(tt.source, func(t *testing.T) {
			t.Parallel()
			value, err := New().Value(tt.source)
			require.NoError(t, err)
			got, err := value(object())
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
	_, err := New().Value(`object.`)
	require.Error(t, err)
	value, err := New().Value(`object.spec.missing`)
	require.NoError(t, err)
	_, err = value(object())
	assert.EqualError(t, err, "no such key: missing")
}

func TestExpression_endsWhenItTakesTooLong(t *testing.T) {
	t.Parallel()
	list := make([]any, 2000)
	for i := range list {
		list[i] = int64(i)
	}
	value, err := New().Value(`object.l.filter(a, object.l.exists(b, object.l.exists(c, a + b + c < 0)))`)
	require.NoError(t, err)
	_, err = value(map[string]any{"l": list})
	assert.ErrorContains(t, err, "cost limit exceeded")
}

func TestJSONPatch(t *testing.T) {
	t.Parallel()
	patch, err := New().JSONPatch([]byte(`[{"op":"test","path":"/spec/replicas","value":10},{"op":"replace","path":"/spec/replicas","value":3},{"op":"remove","path":"/spec/ratio"}]`))
	require.NoError(t, err)
	obj := object()
	got, err := patch(obj)
	require.NoError(t, err)
	assert.Equal(t, object(), obj, "the object is as it was")
	want := object()
	want["spec"] = map[string]any{"replicas": int64(3), "hosts": []any{"a.example.org"}}
	assert.Equal(t, want, got)

	_, err = patch(want)
	assert.ErrorContains(t, err, "test failed")
	_, err = New().JSONPatch([]byte(`{}`))
	require.Error(t, err)
}
