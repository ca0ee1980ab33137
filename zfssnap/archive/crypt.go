package archive

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"filippo.io/age"
)

// ParseRecipients reads age public keys.
func ParseRecipients(keys []string) ([]age.Recipient, error) {
	recipients := make([]age.Recipient, 0, len(keys))
	for i, k := range keys {
		parsed, err := age.ParseRecipients(strings.NewReader(k))
		if err != nil || len(parsed) != 1 {
			// A secret key put there by mistake must not be shown.
			return nil, fmt.Errorf("recipients[%d]: %w: not an age public key (age1...)", i, ErrInvalid)
		}
		recipients = append(recipients, parsed[0])
	}
	return recipients, nil
}

// LoadIdentities reads a file of age secret keys, as age-keygen writes it.
func LoadIdentities(file string) ([]age.Identity, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("read identity: %w", err)
	}
	defer f.Close()
	ids, err := age.ParseIdentities(f)
	if err != nil {
		// The library's message may quote the line.
		return nil, fmt.Errorf("read identity %s: %w: not age secret keys as age-keygen writes them", file, ErrInvalid)
	}
	return ids, nil
}

// storedLimit bounds what a part takes when it is encrypted: 16 bytes more for
// each chunk of 64 KiB, and a header of up to 2 KiB for each of many recipients.
func storedLimit(partSize int64) int64 { return partSize + partSize>>12 + 64<<10 }

// decrypt appends to plain what is sealed in stored.
func decrypt(plain, stored []byte, ids []age.Identity) ([]byte, error) {
	r, err := age.Decrypt(bytes.NewReader(stored), ids...)
	var none *age.NoIdentityMatchError
	if errors.As(err, &none) {
		return plain, fmt.Errorf("decrypt: %w", ErrSealed)
	}
	if err != nil {
		return plain, fmt.Errorf("decrypt: %w: %w", ErrDamaged, err)
	}
	// Not Buffer.ReadFrom, which grows the buffer past what is needed.
	for {
		if len(plain) == cap(plain) {
			return plain, fmt.Errorf("decrypt: %w: more than a part", ErrDamaged)
		}
		n, err := r.Read(plain[len(plain):cap(plain)])
		plain = plain[:len(plain)+n]
		switch {
		case errors.Is(err, io.EOF):
			return plain, nil
		case err != nil:
			return plain, fmt.Errorf("decrypt: %w: %w", ErrDamaged, err)
		}
	}
}
