package vm

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

// keys are those of one machine: the rig's for logging in, the machine's for
// being recognised.
type keys struct {
	client ssh.Signer
	host   ssh.PublicKey
	// dropbear is the machine's private key in dropbear's format.
	dropbear []byte
}

func (m Machine) keyDir() string { return m.in("ssh") }

// makeKeys makes the machine's keys unless they exist.
func (m Machine) makeKeys() error {
	if _, err := os.Stat(m.keyDir()); err == nil {
		return nil
	}
	making := m.keyDir() + ".new"
	if err := errors.Join(os.RemoveAll(making), os.MkdirAll(making, 0o700)); err != nil {
		return err
	}
	for _, name := range []string{"client", "host"} {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return err
		}
		block, err := ssh.MarshalPrivateKey(key, m.Name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(making, name), pem.EncodeToMemory(block), 0o600); err != nil {
			return err
		}
	}
	return os.Rename(making, m.keyDir())
}

func (m Machine) readKeys() (*keys, error) {
	client, err := readKey(filepath.Join(m.keyDir(), "client"))
	if err != nil {
		return nil, err
	}
	host, err := readKey(filepath.Join(m.keyDir(), "host"))
	if err != nil {
		return nil, err
	}
	k := &keys{dropbear: dropbearKey(host)}
	if k.client, err = ssh.NewSignerFromKey(client); err != nil {
		return nil, err
	}
	k.host, err = ssh.NewPublicKey(host.Public())
	return k, err
}

func readKey(path string) (ed25519.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParseRawPrivateKey(data)
	if err != nil {
		return nil, fmt.Errorf("read key %s: %w", path, err)
	}
	private, ok := key.(*ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("read key %s: a %T, not an Ed25519 key", path, key)
	}
	return *private, nil
}

// dropbearKey writes a private key as dropbear reads it: the name of the kind
// and the key with its public half, each after its length.
func dropbearKey(key ed25519.PrivateKey) []byte {
	return ssh.Marshal(struct {
		Kind string
		Key  []byte
	}{ssh.KeyAlgoED25519, key})
}

// authorizedKeys is the file that lets the rig in.
func (k *keys) authorizedKeys() []byte {
	return bytes.TrimSpace(ssh.MarshalAuthorizedKey(k.client.PublicKey()))
}
