package signature

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
)

// Signer is who signed a file.
type Signer struct {
	// Principals are what the list of signers calls the owner of the key.
	Principals string
	Key        ssh.PublicKey
}

// InvalidError says why a signature does not prove anything.
type InvalidError struct{ Why string }

func (e *InvalidError) Error() string { return "the signature is not valid: " + e.Why }

// Verify returns who signed content, or an *InvalidError. allowed is a list of
// signers, in the format of ALLOWED SIGNERS in ssh-keygen(1).
func Verify(content, signature, allowed []byte, now time.Time) (*Signer, error) {
	s, err := sshsig.Unarmor(signature)
	if err != nil {
		return nil, fmt.Errorf("read the signature: %w", err)
	}
	signers, err := parseAllowed(allowed)
	if err != nil {
		return nil, err
	}
	if s.Namespace != Namespace {
		return nil, &InvalidError{fmt.Sprintf("it was made for %q, not for %q", s.Namespace, Namespace)}
	}
	if _, certified := s.PublicKey.(*ssh.Certificate); certified {
		return nil, errors.New("it was made with a certificate: ssh-keygen -Y verify can tell whose")
	}
	why := fmt.Sprintf("its key %s is not in the list of signers", ssh.FingerprintSHA256(s.PublicKey))
	for _, a := range signers {
		if !same(a.key, s.PublicKey) {
			continue
		}
		if why = a.refuses(now); why != "" {
			continue
		}
		if sshsig.Verify(bytes.NewReader(content), s, a.key, s.HashAlgorithm, Namespace) != nil {
			return nil, &InvalidError{fmt.Sprintf("the file is not what %s signed", a.principals)}
		}
		return &Signer{Principals: a.principals, Key: a.key}, nil
	}
	return nil, &InvalidError{why}
}

// allowedSigner is a line of a list of signers.
type allowedSigner struct {
	principals    string
	key           ssh.PublicKey
	authority     bool
	namespaces    string // patterns; "" for any
	after, before time.Time
}

// refuses says why a key may not have signed now, "" when it may.
func (a allowedSigner) refuses(now time.Time) string {
	switch {
	case a.authority:
		return fmt.Sprintf("the key of %s is there to sign certificates", a.principals)
	case a.namespaces != "" && !listed(a.namespaces, Namespace):
		return fmt.Sprintf("%s may sign for %s alone", a.principals, a.namespaces)
	case now.Before(a.after):
		return fmt.Sprintf("the key of %s is valid from %s", a.principals, a.after.Format(time.RFC3339))
	case !a.before.IsZero() && now.After(a.before):
		return fmt.Sprintf("the key of %s was valid until %s", a.principals, a.before.Format(time.RFC3339))
	}
	return ""
}

// listed reports whether a name fits a list of patterns, as PATTERNS in
// ssh_config(5) says.
func listed(patterns, name string) bool {
	found := false
	for pattern := range strings.SplitSeq(patterns, ",") {
		pattern, negated := strings.CutPrefix(pattern, "!")
		if fits, err := path.Match(pattern, name); err == nil && fits {
			if negated {
				return false
			}
			found = true
		}
	}
	return found
}

// parseAllowed reads a list of signers. A line that is not understood is an error:
// it may be what takes a right away.
func parseAllowed(text []byte) ([]allowedSigner, error) {
	var signers []allowedSigner
	n := 0
	for line := range strings.Lines(string(text)) {
		n++
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		a, err := parseSigner(line)
		if err != nil {
			return nil, fmt.Errorf("list of signers, line %d: %w", n, err)
		}
		signers = append(signers, a)
	}
	if len(signers) == 0 {
		return nil, errors.New("the list of signers is empty")
	}
	return signers, nil
}

func parseSigner(line string) (allowedSigner, error) {
	var a allowedSigner
	a.principals, line, _ = strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
	key, _, options, _, err := ssh.ParseAuthorizedKey([]byte(line))
	if err != nil {
		return a, fmt.Errorf("want principals, options and a public key: %w", err)
	}
	a.key = key
	for _, option := range options {
		name, value, _ := strings.Cut(option, "=")
		value = strings.Trim(value, `"`)
		switch strings.ToLower(name) {
		case "cert-authority":
			a.authority = true
		case "namespaces":
			a.namespaces = value
		case "valid-after":
			a.after, err = timestamp(value)
		case "valid-before":
			a.before, err = timestamp(value)
		default:
			err = fmt.Errorf("unknown option %q", name)
		}
		if err != nil {
			return a, err
		}
	}
	return a, nil
}

// timestamp reads YYYYMMDD[HHMM[SS]], of this place, or of UTC with a Z behind it.
func timestamp(text string) (time.Time, error) {
	digits, utc := strings.CutSuffix(text, "Z")
	place := time.Local
	if utc {
		place = time.UTC
	}
	for _, layout := range []string{"20060102", "200601021504", "20060102150405"} {
		if at, err := time.ParseInLocation(layout, digits, place); err == nil {
			return at, nil
		}
	}
	return time.Time{}, fmt.Errorf("time %q is not YYYYMMDD[HHMM[SS]][Z]", text)
}
