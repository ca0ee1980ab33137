package rules

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestHostMap_traefikRule_refuses(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, rule, want string }{
		{"an open value", "Host(`a", "column 6: the value doesn't end or has a wrong escape"},
		{"single quotes", "Host('a')", `column 6: want a value in backticks or double quotes, got '\''`},
		{"an open call", "Host(`a`", `column 9: want "," or ")", got the end`},
		{"an open parenthesis", "(Host(`a`)", `column 11: want "&&", "||" or ")", got the end`},
		{"two calls side by side", "Host(`a`) Host(`b`)", `column 11: want the end, got 'H'`},
		{"no operand", "Host(`a`) && ", `column 14: want a matcher, got the end`},
		{"nothing", "", `column 1: want a matcher, got the end`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := hostMap{}.traefikRule(tt.rule)
			assert.ErrorContains(t, err, tt.want)
		})
	}
}

func newHosts(mappings ...HostMapping) hostMap {
	e := &edit{}
	return e.hosts(&Rewrites{Hosts: mappings})
}

func FuzzTraefikRule(f *testing.F) {
	for _, rule := range []string{
		"Host(`a.example.org`)",
		"Host(`a.example.org`,`b.example.org`) && PathPrefix(\"/x\\\"y\")",
		"  ! ( Host(`b.example.org`)||HostSNI(`*`) )&&Method()",
		"HostRegexp(`^b\\.example\\.org$`) || HostRegexp(`{sub:[a-z]+}.example.org`)",
		"((!(!Host(`b.example.org`))))",
		"HostRegexp(`^(www\\.)?a\\.example\\.org$`) && Header(`Host`, `a.example.org`)",
	} {
		f.Add(rule)
	}
	hosts := newHosts(
		HostMapping{From: "a.example.org", To: "a.drill.example.org"},
		HostMapping{From: "b.example.org", To: "b-dr.example.org", Mode: HostAdd},
		HostMapping{From: "*.c.example.org", To: "*.c.dr.example.org"},
	)
	f.Fuzz(func(t *testing.T, rule string) {
		same, err := hostMap{}.traefikRule(rule)
		if err != nil {
			return
		}
		assert.Equal(t, rule, same, "an untouched rule stays byte for byte")
		once, err := hosts.traefikRule(rule)
		require.NoError(t, err)
		twice, err := hosts.traefikRule(once)
		require.NoError(t, err)
		assert.Equal(t, once, twice)
	})
}

func FuzzText(f *testing.F) {
	f.Add("https://a.example.org/x?u=https%3A%2F%2Fx.c.example.org me@a.example.org")
	hosts := newHosts(HostMapping{From: "a.example.org", To: "b.example.org"}, HostMapping{From: "*.c.example.org", To: "*.c.dr.example.org"})
	f.Fuzz(func(t *testing.T, text string) {
		same, mapped := hostMap{}.text(text)
		assert.Equal(t, text, same)
		assert.Empty(t, mapped)
		once, _ := hosts.text(text)
		twice, again := hosts.text(once)
		assert.Equal(t, once, twice)
		assert.Empty(t, again)
	})
}
