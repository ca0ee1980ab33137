package signature

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hiddeco/sshsig"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// The keys in testdata, and the signatures of report.md, are what ssh-keygen of
// OpenSSH 9.2 made.

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func read(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("testdata", name))
	require.NoError(t, err)
	return content
}

func file(name string) string { return filepath.Join("testdata", name) }

// signers is a list in which each key is its owner's.
func signers(t *testing.T) string {
	t.Helper()
	list := "# who may sign\n\n"
	for owner, key := range map[string]string{"alice": "ed25519", "bob": "rsa", "carol": "ecdsa", "dora": "encrypted"} {
		list += owner + "@example.org " + string(read(t, key+".pub"))
	}
	return list
}

func noPassphrase() ([]byte, error) { return nil, errors.New("nobody is asked") }

// TestSign_isWhatSSHKeygenMakes: signatures by these keys are the same every time.
func TestSign_isWhatSSHKeygenMakes(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"ed25519", "rsa"} {
		t.Run(key, func(t *testing.T) {
			t.Parallel()
			signature, public, err := Key{File: file(key), Passphrase: noPassphrase}.Sign(read(t, "report.md"))
			require.NoError(t, err)
			got, err := sshsig.Unarmor(signature)
			require.NoError(t, err)
			want, err := sshsig.Unarmor(read(t, "report.md."+key+".sig"))
			require.NoError(t, err)
			assert.Equal(t, want.Marshal(), got.Marshal())
			assert.True(t, same(want.PublicKey, public))
		})
	}
}

func TestVerify(t *testing.T) {
	t.Parallel()
	const ed25519 = "report.md.ed25519.sig"
	alice := strings.TrimSpace(string(read(t, "ed25519.pub")))
	lists := map[string]string{
		"all":              signers(t),
		"others":           "bob@example.org " + string(read(t, "rsa.pub")),
		"several":          "*@example.org,!eve@example.org " + alice,
		"namespaces":       `alice@example.org namespaces="git,kubectl-dr@*" ` + alice,
		"other namespaces": `alice@example.org namespaces="*,!kubectl-dr@*" ` + alice,
		"authority":        "alice@example.org cert-authority " + alice,
		"not yet":          "alice@example.org valid-after=20260201Z " + alice,
		"not any more":     `alice@example.org valid-before="20260102030404Z" ` + alice,
		"in time":          "alice@example.org valid-after=202601020304Z,valid-before=20260102030405Z " + alice,
		"over, and anew":   "alice@example.org valid-before=20250101 " + alice + "\nalice@example.com valid-after=20250101 " + alice + "\n",
	}
	tests := []struct {
		name, signature, signers string
		content                  string // report.md when empty
		who, err                 string
		invalid                  bool
	}{
		{name: "an ed25519 key", signature: ed25519, signers: "all", who: "alice@example.org"},
		{name: "an RSA key", signature: "report.md.rsa.sig", signers: "all", who: "bob@example.org"},
		{name: "an ECDSA key", signature: "report.md.ecdsa.sig", signers: "all", who: "carol@example.org"},
		{name: "another hash", signature: "report.md.sha256.sig", signers: "all", who: "alice@example.org"},
		{name: "a pattern", signature: ed25519, signers: "several", who: "*@example.org,!eve@example.org"},
		{name: "a key for this namespace among others", signature: ed25519, signers: "namespaces", who: "alice@example.org"},
		{name: "a key in its time", signature: ed25519, signers: "in time", who: "alice@example.org"},
		{name: "a key that is there twice", signature: ed25519, signers: "over, and anew", who: "alice@example.com"},

		{name: "a file that was changed", signature: ed25519, signers: "all", content: "# Drill of wordpress: Failed\n",
			err: "the file is not what alice@example.org signed", invalid: true},
		{name: "a signer who is not listed", signature: ed25519, signers: "others", err: "its key SHA256:", invalid: true},
		{name: "what was signed for another purpose", signature: "report.md.file.sig", signers: "all", err: `it was made for "file", not for "kubectl-dr@kubectl-dr.io"`, invalid: true},
		{name: "a key for other namespaces", signature: ed25519, signers: "other namespaces", err: "alice@example.org may sign for *,!kubectl-dr@* alone", invalid: true},
		{name: "an authority", signature: ed25519, signers: "authority", err: "is there to sign certificates", invalid: true},
		{name: "a key that is not valid yet", signature: ed25519, signers: "not yet", err: "is valid from 2026-02-01T00:00:00Z", invalid: true},
		{name: "a key that is not valid any more", signature: ed25519, signers: "not any more", err: "was valid until 2026-01-02T03:04:04Z", invalid: true},
		{name: "a certificate", signature: "report.md.certificate.sig", signers: "all", err: "it was made with a certificate: ssh-keygen"},
		{name: "what is no signature", signature: "report.md", signers: "all", err: "read the signature"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			content := read(t, "report.md")
			if tt.content != "" {
				content = []byte(tt.content)
			}
			s, err := Verify(content, read(t, tt.signature), []byte(lists[tt.signers]), now)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				var invalid *InvalidError
				assert.Equal(t, tt.invalid, errors.As(err, &invalid))
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.who, s.Principals)
		})
	}
}

func TestVerify_refusesAListItDoesNotUnderstand(t *testing.T) {
	t.Parallel()
	key := string(read(t, "ed25519.pub"))
	for list, why := range map[string]string{
		"":                                    "the list of signers is empty",
		"# nobody\n":                          "the list of signers is empty",
		"\n" + key:                            "list of signers, line 2: want principals",
		"alice@example.org\n":                 "list of signers, line 1: want principals",
		"alice no-such-option " + key:         `unknown option "no-such-option"`,
		"alice valid-before=tomorrow " + key:  `time "tomorrow" is not YYYYMMDD[HHMM[SS]][Z]`,
		"alice valid-before=20261301 " + key:  `time "20261301" is not YYYYMMDD`,
		"alice ssh-ed25519 AAAA\nbob " + key:  "line 1",
		"alice " + key + "bob ssh-rsa cut-of": "line 2",
	} {
		_, err := Verify(read(t, "report.md"), read(t, "report.md.ed25519.sig"), []byte(list), now)
		assert.ErrorContains(t, err, why, list)
	}
}

func FuzzParseAllowed(f *testing.F) {
	f.Add("alice@example.org ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAINNwMHM8lLcve+HMdKmjaanRnkdOE0Sm3ZUxkjv5LTgg alice\n")
	f.Add(`a,!b cert-authority,namespaces="x,y",valid-before=20260102Z ssh-rsa AAAA`)
	f.Fuzz(func(t *testing.T, text string) {
		signers, err := parseAllowed([]byte(text))
		if err == nil {
			assert.NotEmpty(t, signers)
		}
		for _, a := range signers {
			assert.NotNil(t, a.key)
			assert.NotEmpty(t, a.principals)
		}
	})
}

func TestSign_withAnEncryptedKey(t *testing.T) {
	t.Parallel()
	content := read(t, "report.md")
	with := func(passphrase string) Key {
		return Key{File: file("encrypted"), Passphrase: func() ([]byte, error) { return []byte(passphrase), nil }}
	}
	signature, _, err := with("correct horse").Sign(content)
	require.NoError(t, err)
	s, err := Verify(content, signature, []byte(signers(t)), now)
	require.NoError(t, err)
	assert.Equal(t, "dora@example.org", s.Principals)

	_, _, err = with("battery staple").Sign(content)
	require.EqualError(t, err, "open key testdata/encrypted: the passphrase is wrong")
	_, _, err = Key{File: file("encrypted"), Passphrase: noPassphrase}.Sign(content)
	require.EqualError(t, err, "open key testdata/encrypted, which is encrypted: nobody is asked")
}

func TestSign_byAnSSHAgent(t *testing.T) {
	t.Parallel()
	content := read(t, "report.md")
	keyring := agent.NewKeyring()
	for _, name := range []string{"rsa", "ecdsa", "ed25519"} {
		key, err := ssh.ParseRawPrivateKey(read(t, name))
		require.NoError(t, err)
		require.NoError(t, keyring.Add(agent.AddedKey{PrivateKey: key}))
	}
	socket := filepath.Join(t.TempDir(), "agent")
	l, err := net.Listen("unix", socket)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = agent.ServeAgent(keyring, conn) // until its client has gone
		}
	}()
	for key, owner := range map[string]string{"ed25519": "alice", "rsa": "bob", "ecdsa": "carol"} {
		signature, _, err := Key{File: file(key + ".pub"), Agent: socket}.Sign(content)
		require.NoError(t, err, key)
		s, err := Verify(content, signature, []byte(signers(t)), now)
		require.NoError(t, err, key)
		assert.Equal(t, owner+"@example.org", s.Principals)
	}
	_, _, err = Key{File: file("encrypted.pub"), Agent: socket}.Sign(content)
	require.ErrorContains(t, err, "the SSH agent does not have the key of testdata/encrypted.pub")
}

func TestSign_saysWhatIsWrongWithAKey(t *testing.T) {
	t.Parallel()
	for name, want := range map[string][2]string{
		"no-such-file": {"read the key to sign with: open testdata/no-such-file", ""},
		"report.md":    {"read key testdata/report.md: ssh: no key found", "of one that an SSH agent or a security key has, give the .pub"},
		"ed25519.pub":  {"testdata/ed25519.pub is a public key, and there is no SSH agent", "give the private key instead"},
	} {
		_, _, err := Key{File: file(name), Passphrase: noPassphrase}.Sign(nil)
		require.ErrorContains(t, err, want[0], name)
		var hinted interface{ Hint() string }
		if want[1] != "" && assert.ErrorAs(t, err, &hinted, name) {
			assert.Contains(t, hinted.Hint(), want[1], name)
		}
	}
}
