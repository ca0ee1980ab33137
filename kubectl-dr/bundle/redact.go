package bundle

import (
	"encoding/base64"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// redacted stands for what was left out.
const redacted = "(redacted)"

// Values that are shorter are too common to be blanked wherever they are.
const shortest = 5

// Redactor blanks secrets: the values of Secrets that it was shown, wherever they
// turn up, and what looks like a secret by its form or by its name.
type Redactor struct {
	known map[string]bool
	all   *strings.Replacer
	// Count is how many times something was blanked.
	Count int
}

// Learn takes note of a Secret's values: as they are, in base64, line by line, and
// what follows "=" or ":" on a line, as in a file of credentials.
func (r *Redactor) Learn(s *corev1api.Secret) {
	if s.Type == "helm.sh/release.v1" {
		return // packed: nothing of it turns up as it is
	}
	for _, raw := range s.Data {
		r.learn(string(raw))
		r.learn(base64.StdEncoding.EncodeToString(raw))
		for line := range strings.Lines(string(raw)) {
			line = strings.TrimSpace(line)
			if strings.HasPrefix(line, "-----") {
				continue // the frame of a PEM block
			}
			r.learn(line)
			if i := strings.IndexAny(line, "=:"); i > 0 {
				r.learn(strings.Trim(line[i+1:], ` "',`))
			}
		}
	}
}

func (r *Redactor) learn(value string) {
	value = strings.TrimSpace(value)
	if len(value) < shortest {
		return
	}
	if r.known == nil {
		r.known = map[string]bool{}
	}
	r.known[value], r.all = true, nil
}

// named finds a setting on a line whose name says that it is a secret, with or
// without quotes, also where it is quoted within quotes.
var named = regexp.MustCompile(`(?i)([a-z0-9_.-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|access[_-]?key|private[_-]?key|credentials?|authorization|cookie)[a-z0-9_.-]*)(\\?["']?[ \t]*[:=][ \t]*\\?["']?)([^\s"'\\,;}&]+)`)

// reference are endings of names that lead to a secret and are none.
var reference = regexp.MustCompile(`(?i)(name|ref|refs|file|path|key|namespace|type|kind|mode|ttl|expiry|expiration|timeout)$`)

var forms = []struct {
	form *regexp.Regexp
	by   string
}{
	{regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(-----END [A-Z ]*PRIVATE KEY-----|$)`), redacted},
	{regexp.MustCompile(`(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}`), "$1 " + redacted},
	{regexp.MustCompile(`\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]*`), redacted},
	{regexp.MustCompile(`\b(AKIA|ASIA)[A-Z0-9]{16}\b`), redacted},
	{regexp.MustCompile(`://[^/\s:@"']+:[^/\s@"']+@`), "://" + redacted + "@"},
	{regexp.MustCompile(`(?i)([?&](?:x-amz-[a-z-]+|sig|signature|awsaccesskeyid|googleaccessid|token|code)=)[^&\s"']+`), "${1}" + redacted},
}

// Text blanks secrets in a text.
func (r *Redactor) Text(text string) string {
	if r.all == nil {
		// The longest first: a value may be part of another.
		values := slices.SortedFunc(maps.Keys(r.known), func(a, b string) int { return len(b) - len(a) })
		var pairs []string
		for _, v := range values {
			pairs = append(pairs, v, redacted)
		}
		r.all = strings.NewReplacer(pairs...)
	}
	before := strings.Count(text, redacted)
	text = r.all.Replace(text)
	for _, f := range forms {
		text = f.form.ReplaceAllString(text, f.by)
	}
	text = named.ReplaceAllStringFunc(text, func(found string) string {
		parts := named.FindStringSubmatch(found)
		name, value := parts[1], parts[3]
		if reference.MatchString(name) && !keyed.MatchString(name) || value == "true" || value == "false" || value == "null" || strings.HasPrefix(value, "(redacted") {
			return found
		}
		return name + parts[2] + redacted
	})
	r.Count += strings.Count(text, redacted) - before
	return text
}

// keyed are names that end with "key" and are secrets.
var keyed = regexp.MustCompile(`(?i)(api|access|private|secret)[_-]?key$`)

// Object leaves out of an object what is no use to anybody, and blanks what
// programs are often given secrets by: the values of environment variables. It
// changes the object.
func (r *Redactor) Object(obj *unstructured.Unstructured) {
	unstructured.RemoveNestedField(obj.Object, "metadata", "managedFields")
	annotations := obj.GetAnnotations()
	delete(annotations, "kubectl.kubernetes.io/last-applied-configuration")
	obj.SetAnnotations(annotations)
	r.env(obj.Object)
}

func (r *Redactor) env(value any) {
	switch v := value.(type) {
	case []any:
		for _, item := range v {
			r.env(item)
		}
	case map[string]any:
		list, _ := v["env"].([]any)
		for _, item := range list {
			e, _ := item.(map[string]any)
			if _, ok := e["value"].(string); ok {
				e["value"] = redacted
				r.Count++
			}
		}
		for _, item := range v {
			r.env(item)
		}
	}
}
