// Package signature signs files, and tells who signed them, in OpenSSH's format for
// detached signatures, so that anybody can verify them with ssh-keygen -Y verify:
// https://github.com/openssh/openssh-portable/blob/master/PROTOCOL.sshsig.
package signature

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/hiddeco/sshsig"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// Namespace keeps what is signed here from passing for what the same key signed for
// another purpose.
const Namespace = "kubectl-dr@kubectl-dr.io"

// File is where the signature of a file is, as ssh-keygen -Y sign puts it.
func File(of string) string { return of + ".sig" }

// Key is what to sign with.
type Key struct {
	// File has a private key, or a public one whose private key an SSH agent has.
	File string
	// Passphrase is asked for when the key is encrypted.
	Passphrase func() ([]byte, error)
	// Agent is the socket of an SSH agent; "" is none.
	Agent string
}

// Sign returns the signature of what a file is to hold, and the public key that it
// was made with.
func (k Key) Sign(content []byte) (signature []byte, key ssh.PublicKey, err error) {
	text, err := os.ReadFile(k.File)
	if err != nil {
		return nil, nil, fmt.Errorf("read the key to sign with: %w", err)
	}
	if public, _, _, _, err := ssh.ParseAuthorizedKey(text); err == nil {
		return k.signByAgent(content, public)
	}
	signer, err := k.private(text)
	if err != nil {
		return nil, nil, err
	}
	return sign(content, signer)
}

func sign(content []byte, signer ssh.Signer) ([]byte, ssh.PublicKey, error) {
	s, err := sshsig.Sign(bytes.NewReader(content), signer, sshsig.HashSHA512, Namespace)
	if err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	return sshsig.Armor(s), signer.PublicKey(), nil
}

func (k Key) private(text []byte) (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey(text)
	var encrypted *ssh.PassphraseMissingError
	if errors.As(err, &encrypted) {
		passphrase, err := k.Passphrase()
		if err != nil {
			return nil, fmt.Errorf("open key %s, which is encrypted: %w", k.File, err)
		}
		signer, err = ssh.ParsePrivateKeyWithPassphrase(text, passphrase)
		if errors.Is(err, x509.IncorrectPasswordError) {
			return nil, fmt.Errorf("open key %s: the passphrase is wrong", k.File)
		}
		if err != nil {
			return nil, fmt.Errorf("open key %s: %w", k.File, err)
		}
		return signer, nil
	}
	if err != nil {
		return nil, hint.Add(fmt.Errorf("read key %s: %w", k.File, err),
			"it has to be a private key as ssh-keygen -t ed25519 makes it; of one that an SSH agent or a security key has, give the .pub")
	}
	return signer, nil
}

// signByAgent has an SSH agent sign, which has the private key.
func (k Key) signByAgent(content []byte, public ssh.PublicKey) ([]byte, ssh.PublicKey, error) {
	const toDo = "give the private key instead, or ssh-add it to an SSH agent that SSH_AUTH_SOCK names"
	if k.Agent == "" {
		return nil, nil, hint.Errorf(toDo, "%s is a public key, and there is no SSH agent to sign with its private one", k.File)
	}
	conn, err := net.Dial("unix", k.Agent)
	if err != nil {
		return nil, nil, hint.Errorf(toDo, "reach the SSH agent: %w", err)
	}
	defer conn.Close()
	signers, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, nil, fmt.Errorf("ask the SSH agent for its keys: %w", err)
	}
	for _, signer := range signers {
		if same(signer.PublicKey(), public) {
			return sign(content, signer)
		}
	}
	return nil, nil, hint.Errorf(toDo, "the SSH agent does not have the key of %s", k.File)
}

func same(a, b ssh.PublicKey) bool { return bytes.Equal(a.Marshal(), b.Marshal()) }
