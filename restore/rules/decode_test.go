package rules

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/kubectl-dr/kubectl-dr/restore/expr"
)

const heading = "apiVersion: rewrite.kubectl-dr.io/v1alpha1\nkind: RewriteProfiles\n"

func TestLoad(t *testing.T) {
	t.Parallel()
	set, err := Load(map[string][]byte{
		"a.yaml": []byte(heading + "profiles: [{name: one}]\n---\n" + heading + "profiles: [{name: two}]\n---\n"),
		"b.yaml": []byte(heading + "profiles:\n- &three\n  name: three\n  labels: {set: {a: b}}\n- <<: *three\n  name: four\n"),
		"c.yaml": []byte("apiVersion: v1\nkind: ConfigMap\ndata:\n  five.yaml: |\n    " +
			strings.ReplaceAll(heading, "\n", "\n    ") + "profiles: [{name: five}]\n"),
		"empty.yaml": nil,
	}, expr.New())
	require.NoError(t, err)
	assert.Equal(t, []string{"five", "four", "one", "three", "two"}, set.Names())

	four, err := set.Profile("four")
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"a": "b"}, four.Labels.Set)

	_, err = set.Profile("six")
	require.ErrorIs(t, err, ErrUnknownProfile)
	assert.EqualError(t, err, `unknown profile "six"; there are: five, four, one, three, two`)
}

func TestLoad_refuses(t *testing.T) {
	t.Parallel()
	profile := func(fields string) string {
		return heading + "profiles:\n- name: p\n" + fields
	}
	tests := []struct{ name, file, want string }{
		{
			name: "what isn't YAML",
			file: "a: [",
			want: "rules.yaml:1: did not find expected node content",
		},
		{
			name: "an alias that holds itself",
			file: "a: &a [*a]",
			want: "rules.yaml: anchor 'a' value contains itself",
		},
		{
			name: "a scalar",
			file: "nothing",
			want: "rules.yaml:1: want a mapping, got a string",
		},
		{
			name: "another kind and version",
			file: "apiVersion: rewrite.kubectl-dr.io/v1\nkind: Rules\nprofiles: [{name: a}]",
			want: "rules.yaml:1: apiVersion: want \"rewrite.kubectl-dr.io/v1alpha1\", got \"rewrite.kubectl-dr.io/v1\"\n" +
				"rules.yaml:2: kind: want \"RewriteProfiles\", got \"Rules\"",
		},
		{
			name: "no profiles",
			file: heading,
			want: "rules.yaml:1: profiles: want at least one profile",
		},
		{
			name: "an unknown field, and says which was meant",
			file: profile("  host: []\n"),
			want: `rules.yaml:5: profiles[0].host: unknown field; did you mean "hosts"?`,
		},
		{
			name: "an unknown field like no other, and lists them",
			file: profile("  tolerations: {frobnicate: []}\n"),
			want: `rules.yaml:5: profiles[0].tolerations.frobnicate: unknown field; known: add, remove`,
		},
		{
			name: "a field written twice",
			file: profile("  state: keep\n  state: standby\n"),
			want: `rules.yaml:6: mapping key "state" already defined at line 5`,
		},
		{
			name: "a boolean for a string",
			file: profile("  labels:\n    set:\n      a: true\n"),
			want: "rules.yaml:7: profiles[0].labels.set[a]: want a string, got true or false; quote it",
		},
		{
			name: "a key that is no string",
			file: profile("  labels:\n    set:\n      1: a\n"),
			want: "rules.yaml:7: profiles[0].labels.set: a key must be a string, not a whole number; quote it",
		},
		{
			name: "a string for a list",
			file: profile("  hosts: a\n"),
			want: "rules.yaml:5: profiles[0].hosts: want a list, got a string",
		},
		{
			name: "nothing for a string",
			file: profile("  storageClasses: {a: }\n"),
			want: "rules.yaml:5: profiles[0].storageClasses[a]: want a string, got nothing",
		},
		{
			name: "profiles without a name, and names that are no label",
			file: heading + "profiles:\n- state: keep\n- name: a b\n",
			want: "rules.yaml:4: profiles[0]: it has no name\n" +
				"rules.yaml:5: profiles[1].name: \"a b\" can't be a label's value: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
		},
		{
			name: "two profiles of one name, and says where both are",
			file: profile("") + "- name: p\n",
			want: `rules.yaml:5: profiles[1]: a profile named "p" is at rules.yaml:4 already`,
		},
		{
			name: "names that can't be followed or applied twice",
			file: profile("  match: {names: [a], excludeKinds: [secret]}\n  names:\n    Secret: {\"*\": dr, \"a*\": b}\n    Sercice: {\"*\": \"*-dr\"}\n    ConfigMap: {\"*\": \"*-dr\", a-dr: b}\n  rules:\n  - match: {kinds: [Secret]}\n    names: {Secret: {a: b}}\n"),
			want: "rules.yaml:5: profiles[0].match: names follow references, so this may only say which namespaces and kinds to leave out\n" +
				"rules.yaml:5: profiles[0].match.excludeKinds[0]: names renames objects of this kind\n" +
				"rules.yaml:7: profiles[0].names[Secret][*]: want an asterisk for the name with something before or after it, such as *-dr; got \"dr\"\n" +
				"rules.yaml:7: profiles[0].names[Secret][a*]: an asterisk stands for every name alone, and in what it maps to\n" +
				"rules.yaml:8: profiles[0].names[Sercice]: unknown value \"Sercice\"; did you mean \"Service\"?\n" +
				"rules.yaml:9: profiles[0].names[ConfigMap][a-dr]: \"a-dr\" looks like what \"*\" maps to; a second restore would carry it further\n" +
				"rules.yaml:12: profiles[0].rules[0].names: references to an object are in others, which the rule may not select; write names on the profile",
		},
		{
			name: "an unknown state, and says which was meant",
			file: profile("  state: stanby\n"),
			want: `rules.yaml:5: profiles[0].state: unknown value "stanby"; did you mean "standby"?`,
		},
		{
			name: "a wrong type beside other faults",
			file: profile("  state: stanby\n  hosts: [{from: 1, to: b.example.org}]\n  labels: []\n  storageClasses: {a: a}\n"),
			want: `rules.yaml:5: profiles[0].state: unknown value "stanby"; did you mean "standby"?` + "\n" +
				"rules.yaml:6: profiles[0].hosts[0].from: want a string, got a whole number; quote it\n" +
				"rules.yaml:7: profiles[0].labels: want a mapping, got a list\n" +
				`rules.yaml:8: profiles[0].storageClasses[a]: it maps "a" to itself`,
		},
		{
			name: "an empty host",
			file: profile("  hosts:\n  - {from: a.example.org, to: \"\"}\n"),
			want: "rules.yaml:6: profiles[0].hosts[0].to: it is empty",
		},
		{
			name: "an asterisk in the middle of a host",
			file: profile("  hosts:\n  - from: a.*.example.org\n    to: b.example.org\n"),
			want: `rules.yaml:6: profiles[0].hosts[0].from: "a.*.example.org": an asterisk may only stand for the first label, as in *.example.org`,
		},
		{
			name: "a URL for a host",
			file: profile("  hosts:\n  - {from: \"https://a.example.org\", to: b.example.org}\n"),
			want: `rules.yaml:6: profiles[0].hosts[0].from: "https://a.example.org": want a host alone, without scheme, port or path`,
		},
		{
			name: "a domain mapped to a host",
			file: profile("  hosts:\n  - {from: \"*.example.org\", to: b.example.org}\n"),
			want: `rules.yaml:6: profiles[0].hosts[0]: either both or neither of from and to begin with "*."`,
		},
		{
			name: "a host mapped to itself or twice",
			file: profile("  hosts:\n  - {from: a.example.org, to: A.example.org}\n  - {from: b.example.org, to: c.example.org}\n  - {from: b.example.org, to: d.example.org}\n"),
			want: "rules.yaml:6: profiles[0].hosts[0].from: it maps \"a.example.org\" to itself\n" +
				"rules.yaml:8: profiles[0].hosts[2].from: hosts[1] maps \"b.example.org\" already",
		},
		{
			name: "expressions that aren't, or take what they haven't got",
			file: profile("  hosts:\n  - {fromRegexp: \"a(\", to: b.example.org}\n  - {from: a.example.org, fromRegexp: a, to: b.example.org}\n  - {fromRegexp: \"(a)\", to: $2.example.org}\n  - {fromRegexp: \"(a)\", to: \"$1/x\"}\n"),
			want: "rules.yaml:6: profiles[0].hosts[0].fromRegexp: \"a(\" is no expression: missing closing ): `(?i)^(?:a()$`\n" +
				"rules.yaml:7: profiles[0].hosts[1]: want from or fromRegexp, not both\n" +
				"rules.yaml:8: profiles[0].hosts[2].to: fromRegexp has no capture \"2\"\n" +
				"rules.yaml:9: profiles[0].hosts[3].to: \"a/x\": want a host alone, without scheme, port or path",
		},
		{
			name: "hosts mapped in a circle, and hosts mapped on",
			file: profile("  hosts:\n  - {from: a.example.org, to: b.example.org}\n  - {from: b.example.org, to: a.example.org}\n"),
			want: "rules.yaml:6: profiles[0].hosts[0].from: hosts[1] maps to \"a.example.org\", which is left alone from then on, so this can never apply; map to the final name, or use two profiles\n" +
				"rules.yaml:7: profiles[0].hosts[1].from: hosts[0] maps to \"b.example.org\", which is left alone from then on, so this can never apply; map to the final name, or use two profiles",
		},
		{
			name: "label values that selectors would miss, or that aren't",
			file: profile("  labels: {remove: [app*]}\n  labelValues:\n    app: {web: web-dr}\n    tier: {a: \"b c\"}\n"),
			want: "rules.yaml:7: profiles[0].labelValues[app]: labels changes it too; selectors would miss it\n" +
				"rules.yaml:8: profiles[0].labelValues[tier][a]: \"b c\" is no value: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
		},
		{
			name: "classes mapped on, or to themselves, or to nothing",
			file: profile("  storageClasses:\n    a: b\n    b: c\n    d: d\n    e: \"\"\n"),
			want: "rules.yaml:6: profiles[0].storageClasses[a]: \"b\" is both mapped to and mapped from, so a second restore would carry \"a\" further; use two profiles\n" +
				"rules.yaml:8: profiles[0].storageClasses[d]: it maps \"d\" to itself\n" +
				"rules.yaml:9: profiles[0].storageClasses[e]: neither side may be empty",
		},
		{
			name: "what is no address",
			file: profile("  addresses: {a.example.org: 192.0.2.1}\n"),
			want: `rules.yaml:5: profiles[0].addresses[a.example.org]: "a.example.org" is no IP address`,
		},
		{
			name: "a range mapped to an address, and a label whose values are mapped further",
			file: profile("  addresses: {192.0.2.0/24: 198.51.100.1}\n  nodeLabels: {site: {a: b}}\n  nodeLabelKeys: {zone: site}\n"),
			want: "rules.yaml:5: profiles[0].addresses[192.0.2.0/24]: \"198.51.100.1\" is no range of IP addresses\n" +
				"rules.yaml:7: profiles[0].nodeLabelKeys[zone]: nodeLabels maps values of \"site\", so a second restore would carry them further; use two profiles",
		},
		{
			name: "replicas of what has none",
			file: profile("  replicas: {cronjob/a: 1, deploy/b: 1, web: 1}\n"),
			want: "rules.yaml:5: profiles[0].replicas[cronjob/a]: kind \"cronjob\" has no replicas; known: deployment, deploymentconfig, replicaset, replicationcontroller, rollout, statefulset\n" +
				"rules.yaml:5: profiles[0].replicas[deploy/b]: kind \"deploy\" has no replicas; known: deployment, deploymentconfig, replicaset, replicationcontroller, rollout, statefulset\n" +
				"rules.yaml:5: profiles[0].replicas[web]: want <kind>/<name>, for example deployment/wordpress",
		},
		{
			name: "a Service that would need an address it had not",
			file: profile("  serviceTypes: {ClusterIP: LoadBalancer}\n"),
			want: `rules.yaml:5: profiles[0].serviceTypes[ClusterIP]: a Service of type "ClusterIP" can't become one of type "LoadBalancer"`,
		},
		{
			name: "entries set and removed, and the annotation that is ours",
			file: profile("  annotations: {set: {a/b: c}, remove: [\"a/*\", \"kubectl-dr.io/*\"]}\n"),
			want: "rules.yaml:5: profiles[0].annotations.set[a/b]: it is set and removed\n" +
				"rules.yaml:5: profiles[0].annotations.remove[1]: it would remove kubectl-dr.io/original-state, which rewriting itself keeps",
		},
		{
			name: "tolerations Kubernetes would refuse, or added and removed",
			file: profile("  tolerations:\n    add:\n    - {key: a, operator: Exist}\n    - {value: b}\n    - {key: c}\n    remove:\n    - {key: c}\n    - {}\n"),
			want: "rules.yaml:7: profiles[0].tolerations.add[0].operator: unknown value \"Exist\"; did you mean \"Exists\"?\n" +
				"rules.yaml:8: profiles[0].tolerations.add[1]: a toleration without a key needs operator Exists\n" +
				"rules.yaml:11: profiles[0].tolerations.remove[0]: it removes tolerations.add[2] again\n" +
				"rules.yaml:12: profiles[0].tolerations.remove[1]: it is empty",
		},
		{
			name: "switches at odds with each other",
			file: profile("  externalDNS: mute\n  traffic: passive\n  certificates: stagging\n"),
			want: "rules.yaml:6: profiles[0].traffic: it says what external-dns publishes; leave out externalDNS\n" +
				"rules.yaml:6: profiles[0].traffic: passive publishes the hosts that are mapped to; map some with hosts\n" +
				"rules.yaml:7: profiles[0].certificates: unknown value \"stagging\"; did you mean \"staging\"?",
		},
		{
			name: "placement that can't be",
			file: profile("  affinity: {remove: [podAfinity]}\n  ipFamilies: {policy: SingleStack, families: [IPv4, IPv6]}\n  nodeLabels: {zone: {a: b, b: c}}\n  podTemplates: {CronTab: .spec}\n  images: {\"\": a}\n"),
			want: "rules.yaml:5: profiles[0].affinity.remove[0]: unknown value \"podAfinity\"; did you mean \"podAffinity\"?\n" +
				"rules.yaml:6: profiles[0].ipFamilies.families: SingleStack has one family\n" +
				"rules.yaml:7: profiles[0].nodeLabels[zone][a]: \"b\" is both mapped to and mapped from, so a second restore would carry \"a\" further; use two profiles\n" +
				"rules.yaml:8: profiles[0].podTemplates[CronTab]: want a path such as spec.template, got \".spec\"\n" +
				"rules.yaml:9: profiles[0].images[]: neither side may be empty",
		},
		{
			name: "operators that hold back nothing, or not one field",
			file: profile("  operators:\n    A.example.org: {}\n    B.example.org: {\"spec.list[*].x\": 0, spec.y: [1]}\n    \"*.example.org\": {spec.x: 0}\n"),
			want: "rules.yaml:6: profiles[0].operators[A.example.org]: want fields and the values that hold it back, such as spec.replicas: 0\n" +
				"rules.yaml:7: profiles[0].operators[B.example.org][spec.list[*].x]: want the path of one field, such as spec.replicas\n" +
				"rules.yaml:7: profiles[0].operators[B.example.org][spec.y]: want a string, a number, true or false\n" +
				"rules.yaml:8: profiles[0].operators[*.example.org]: want one kind, so that its objects are found again to be started",
		},
		{
			name: "a drop or a rule for everything",
			file: profile("  drop: [{}]\n  rules:\n  - {state: standby}\n"),
			want: "rules.yaml:5: profiles[0].drop[0]: it selects everything; say what to select\n" +
				"rules.yaml:7: profiles[0].rules[0].match: it selects everything; say what to select",
		},
		{
			name: "a match that isn't one",
			file: profile("  match:\n    kinds: [\".apps\"]\n    names: [\"\"]\n    namespaces: [a_b]\n    labelSelector: a in b\n    condition: object.spec.replicas >\n"),
			want: "rules.yaml:6: profiles[0].match.kinds[0]: want a kind, or a kind, a dot and a group\n" +
				"rules.yaml:7: profiles[0].match.names[0]: it is empty\n" +
				"rules.yaml:8: profiles[0].match.namespaces[0]: \"a_b\" is no namespace: a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')\n" +
				"rules.yaml:9: profiles[0].match.labelSelector: unable to parse requirement: found 'b' expected: '('\n" +
				"rules.yaml:10: profiles[0].match.condition: column 23: Syntax error: mismatched input '<EOF>' expecting {'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}",
		},
		{
			name: "a condition that is no condition",
			file: profile("  drop:\n  - condition: size(object.metadata.name)\n"),
			want: "rules.yaml:6: profiles[0].drop[0].condition: want an expression that is true or false, got one of type int",
		},
		{
			name: "a field in a rule that doesn't exist",
			file: profile("  rules:\n  - match: {name: [a]}\n    host: []\n"),
			want: "rules.yaml:6: profiles[0].rules[0].match.name: unknown field; did you mean \"names\"?\n" +
				"rules.yaml:7: profiles[0].rules[0].host: unknown field; did you mean \"hosts\"?",
		},
		{
			name: "rules that carry each other's values further",
			file: profile("  storageClasses: {a: b}\n  hosts: [{from: a.example.org, to: b.example.org}]\n  rules:\n  - match: {names: [x]}\n    storageClasses: {b: c}\n    hosts: [{from: b.example.org, to: c.example.org}]\n"),
			want: "rules.yaml:9: profiles[0].rules[0].storageClasses[b]: profiles[0] maps to \"b\", so a second restore would carry a value further; use two profiles\n" +
				"rules.yaml:10: profiles[0].rules[0].hosts[0].from: profiles[0].hosts[0] maps to \"b.example.org\", which is left alone from then on, so this can never apply; map to the final name, or use two profiles",
		},
		{
			name: "rules that select by labels that are rewritten",
			file: profile("  labels: {set: {site: dr}}\n  rules:\n  - match: {labelSelector: site=dr}\n    state: standby\n"),
			want: "rules.yaml:7: profiles[0].rules[0].match.labelSelector: profiles[0].labels changes \"site\", so a second restore would select others",
		},
		{
			name: "a patch that is none, or two",
			file: profile("  patches:\n  - match: {names: [a]}\n  - {mergePatch: {spec: {}}, cel: {/a: \"1\"}}\n"),
			want: "rules.yaml:6: profiles[0].patches[0]: want one of jsonPatch, mergePatch and cel\n" +
				"rules.yaml:7: profiles[0].patches[1]: want one of jsonPatch, mergePatch and cel",
		},
		{
			name: "a patch of what stays, or with operations that aren't",
			file: profile("  patches:\n  - jsonPatch:\n    - {op: replace, path: /metadata/name, value: x}\n    - {op: repalce, path: spec.replicas, value: 1}\n  - mergePatch:\n      metadata:\n        namespace: x\n  - cel:\n      /spec/replicas: object.\n"),
			want: "rules.yaml:7: profiles[0].patches[0].jsonPatch[0]: an object's name stays\n" +
				"rules.yaml:8: profiles[0].patches[0].jsonPatch[1]: unknown value \"repalce\"; did you mean \"replace\"?\n" +
				"rules.yaml:8: profiles[0].patches[0].jsonPatch[1]: want a path such as /spec/replicas, got \"spec.replicas\"\n" +
				"rules.yaml:11: profiles[0].patches[1].mergePatch.metadata.namespace: an object's namespace stays\n" +
				"rules.yaml:13: profiles[0].patches[2].cel[/spec/replicas]: column 8: Syntax error: no viable alternative at input '.'",
		},
		{
			name: "a fault inside a ConfigMap, at its line in the file",
			file: "kind: ConfigMap\ndata:\n  a.yaml: |\n    kind: x\n    profile: []\n",
			want: `rules.yaml (a.yaml):4: apiVersion: want "rewrite.kubectl-dr.io/v1alpha1", got ""` + "\n" +
				`rules.yaml (a.yaml):4: kind: want "RewriteProfiles", got "x"` + "\n" +
				`rules.yaml (a.yaml):5: profile: unknown field; did you mean "profiles"?`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := Load(map[string][]byte{"rules.yaml": []byte(tt.file)}, expr.New())
			assert.EqualError(t, err, tt.want)
		})
	}
}

func TestLoad_refusesOneNameInTwoFiles(t *testing.T) {
	t.Parallel()
	content := []byte(heading + "profiles: [{name: p}]\n")
	_, err := Load(map[string][]byte{"a.yaml": content, "b.yaml": content}, expr.New())
	assert.EqualError(t, err, `b.yaml:3: profiles[0]: a profile named "p" is at a.yaml:3 already`)
}

func FuzzLoad(f *testing.F) {
	files, err := filepath.Glob("testdata/*/rules.yaml")
	require.NoError(f, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(f, err)
		f.Add(content)
	}
	f.Add([]byte("a: &a {<<: *a}"))
	f.Fuzz(func(t *testing.T, content []byte) {
		set, err := Load(map[string][]byte{"f": content}, expr.New())
		if err != nil {
			return
		}
		for _, name := range set.Names() {
			p, err := set.Profile(name)
			require.NoError(t, err)
			assert.Equal(t, name, p.Name)
		}
	})
}
