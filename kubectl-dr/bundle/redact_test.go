package bundle

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	corev1api "k8s.io/api/core/v1"
)

func TestRedactor_Text(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, text, want string }{
		{"nothing", "level=info msg=\"backup wordpress-1 is Completed\"", "level=info msg=\"backup wordpress-1 is Completed\""},
		{"a password in YAML", "password: hunter2hunter2", "password: (redacted)"},
		{"a password in JSON", `{"password":"hunter2hunter2"}`, `{"password":"(redacted)"}`},
		{"a password in quotes within quotes", `msg="{\"dbPassword\": \"hunter2hunter2\"}"`, `msg="{\"dbPassword\": \"(redacted)\"}"`},
		{"a flag", "--token=abc", "--token=(redacted)"},
		{"the name of a Secret", "secretName: velero-tls", "secretName: velero-tls"},
		{"where a credential is", "credentialsFile: /credentials/cloud", "credentialsFile: /credentials/cloud"},
		{"a key that is one", "api_key=abcdef", "api_key=(redacted)"},
		{"a switch", "automountServiceAccountToken: false", "automountServiceAccountToken: false"},
		{"a URL with a user", "https://user:pw@host/path", "https://(redacted)@host/path"},
		{"a key that is cut off", "-----BEGIN RSA PRIVATE KEY-----\nabc", "(redacted)"},
		{"what is known", "the value known-to-be-secret is set", "the value (redacted) is set"},
		{"what is part of another", "known-to-be-secret-and-longer", "(redacted)"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			var r Redactor
			r.Learn(&corev1api.Secret{Data: map[string][]byte{"a": []byte("known-to-be-secret"), "b": []byte("known-to-be-secret-and-longer"), "c": []byte("abc")}})
			assert.Equal(t, tt.want, r.Text(tt.text))
			assert.Equal(t, tt.want, r.Text(tt.want), "twice is the same")
		})
	}
}

func FuzzRedactor_neverKeepsWhatItKnows(f *testing.F) {
	f.Add("s3cr3t-value", "before s3cr3t-value after")
	f.Add("password", "password: password")
	f.Fuzz(func(t *testing.T, secret, text string) {
		var r Redactor
		r.Learn(&corev1api.Secret{Data: map[string][]byte{"k": []byte(secret)}})
		for known := range r.known {
			// What stands for a secret may be part of a text that looks like another.
			if !strings.ContainsAny(known, "()") && !strings.Contains(redacted, known) {
				assert.NotContains(t, r.Text(text+known+text), known)
			}
		}
	})
}
