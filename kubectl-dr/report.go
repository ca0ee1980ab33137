package kubectldr

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/term"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/signature"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

// documents are what -o of a report knows beside what other commands do.
var documents = []string{report.FormatHTML, report.FormatMarkdown, report.FormatJUnit}

// formats are what the name of a file says of what is to be in it.
var formats = map[string]string{
	".html": report.FormatHTML, ".md": report.FormatMarkdown, ".xml": report.FormatJUnit, ".json": "json", ".yaml": "yaml",
}

type reportFlags struct {
	global         *globalFlags
	out            *outputFlags
	from           *runsFlags
	file           string
	signKey        string
	passphraseFile string
}

func newCmdReport(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "report [RUN]",
		Short:   "Show a drill or failover step by step",
		GroupID: groupCheck,
		Long: `Show a drill or failover step by step: who executed it, what was done and what was
not, how long it took, what was measured, and which copies were used. Without a name
it is the newest run.

-o html is one page without anything from elsewhere: timeline, RPO and RTO against
the objectives, and the trend over the plan's runs. -o markdown is the same as
text, and -o junit makes a test of every step and objective. --file writes to a file,
whose name says which of them it is when -o does not: .html, .md, .xml, .json, .yaml.

` + aboutArchived + `

--sign-key signs that file with an SSH key, and writes the signature beside it, to
FILE.sig. kubectl dr report verify tells who signed it, and so does ssh-keygen:

  ssh-keygen -Y verify -f allowed_signers -I NAME -n ` + signature.Namespace + ` \
    -s FILE.sig < FILE` + exitStatus,
		Example: `  kubectl dr report
  kubectl dr report --file=report.html
  kubectl dr report wordpress-drill-20260102-030405 -o yaml
  kubectl dr report wordpress-drill-20260102-030405 --archived

  # For those who have to be able to rely on it
  kubectl dr report --file=drill.html --sign-key=$HOME/.ssh/id_ed25519

  # In a job of CI
  kubectl dr report --file=drill.xml --sign-key=/keys/report --sign-passphrase-file=/keys/passphrase`,
		Args: cobra.MaximumNArgs(1),
	}
	f := &reportFlags{global: g, out: addOutputFlags(c), from: addRunsFlags(c, g)}
	c.Flags().Lookup("output").Usage += "; or html, markdown or junit"
	c.Flags().StringVar(&f.file, "file", "", "file to write, which must not be there yet; standard output when not given")
	c.Flags().StringVar(&f.signKey, "sign-key", "", "private key in OpenSSH's format to sign the file with, or a public one whose private key an SSH agent has")
	c.Flags().StringVar(&f.passphraseFile, "sign-passphrase-file", "", "file with the passphrase of an encrypted key, which is asked for otherwise")
	c.ValidArgsFunction = func(c *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return names(c.Context(), e, g, runNames)
	}
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if err := f.validate(); err != nil {
			return err
		}
		return f.report(ctx, e, args)
	})
	c.AddCommand(newCmdReportVerify(e, g))
	return c
}

func (f *reportFlags) validate() error {
	if f.file == "-" {
		f.file = ""
	}
	switch {
	case f.signKey != "" && f.file == "":
		return hint.Errorf("kubectl dr report --file=report.html --sign-key="+f.signKey,
			"--sign-key goes with --file: a signature is of a file, and written beside it")
	case f.passphraseFile != "" && f.signKey == "":
		return errors.New("--sign-passphrase-file goes with --sign-key")
	case f.file == "":
		return nil
	}
	if *f.out.print.OutputFormat == "" {
		*f.out.print.OutputFormat = formats[filepath.Ext(f.file)]
	}
	written := []string{f.file}
	if f.signKey != "" {
		written = append(written, signature.File(f.file))
	}
	for _, name := range written {
		if _, err := os.Lstat(name); err == nil {
			return hint.Errorf("remove it, or choose another name", "write the report: %s is there already", name)
		}
	}
	return nil
}

func (f *reportFlags) report(ctx context.Context, e *env, args []string) error {
	r, runs, err := f.from.pick(ctx, e, strings.Join(args, ""))
	if err != nil {
		return err
	}
	if f.file == "" {
		return f.print(e, r, runs)
	}
	var content bytes.Buffer
	to := *e
	to.Out = &content
	if err := f.print(&to, r, runs); err != nil {
		return err
	}
	return f.write(ctx, e, content.Bytes())
}

func (f *reportFlags) print(e *env, r *plan.RecoveryRun, runs []plan.RecoveryRun) error {
	if format := *f.out.print.OutputFormat; slices.Contains(documents, format) {
		return report.Document(e.Out, format, r, runs)
	}
	return f.out.result(e, typed(r))
}

// write writes the report, and its signature; both or nothing.
func (f *reportFlags) write(ctx context.Context, e *env, content []byte) error {
	if f.signKey == "" {
		if err := create(f.file, 0o644, all(content)); err != nil {
			return fmt.Errorf("write the report: %w", err)
		}
		fmt.Fprintf(e.ErrOut, "wrote %s\n", f.file)
		return nil
	}
	key := signature.Key{File: f.signKey, Agent: e.sshAgent, Passphrase: func() ([]byte, error) { return f.passphrase(ctx, e) }}
	sig, public, err := key.Sign(content)
	if err != nil {
		return err
	}
	if err := create(f.file, 0o644, all(content)); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if err := create(signature.File(f.file), 0o644, all(sig)); err != nil {
		return errors.Join(fmt.Errorf("write the signature: %w", err), os.Remove(f.file))
	}
	fmt.Fprintf(e.ErrOut, "wrote %s, and %s: signed with key %s\n", f.file, signature.File(f.file), ssh.FingerprintSHA256(public))
	return nil
}

func all(content []byte) func(io.Writer) error {
	return func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	}
}

// create writes a file that is not there yet, whole or not at all.
func create(name string, mode os.FileMode, write func(io.Writer) error) error {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if err := errors.Join(write(file), file.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

func (f *reportFlags) passphrase(ctx context.Context, e *env) ([]byte, error) {
	if f.passphraseFile == "" {
		return e.secret(ctx, fmt.Sprintf("Passphrase of %s: ", f.signKey))
	}
	content, err := os.ReadFile(f.passphraseFile)
	return bytes.TrimRight(content, "\r\n"), err
}

// secret asks on the terminal for what nobody is to see.
func (e *env) secret(ctx context.Context, prompt string) ([]byte, error) {
	if !e.interactive() {
		return nil, hint.Errorf("give it in a file, with --sign-passphrase-file", "there is no terminal to ask for its passphrase on")
	}
	fmt.Fprint(e.ErrOut, prompt)
	defer fmt.Fprintln(e.ErrOut)
	return e.readSecret(ctx)
}

// readSecret reads a line from a terminal that does not show it.
func readSecret(ctx context.Context, terminal *os.File) ([]byte, error) {
	fd := int(terminal.Fd())
	before, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	type answer struct {
		line []byte
		err  error
	}
	answered := make(chan answer, 1)
	go func() {
		line, err := term.ReadPassword(fd)
		answered <- answer{line, err}
	}()
	select {
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), term.Restore(fd, before))
	case a := <-answered:
		return a.line, a.err
	}
}

func newCmdReportVerify(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:   "verify FILE --signers=ALLOWED_SIGNERS",
		Short: "Tell who signed a report",
		Long: `Tell who signed a report, and that it is what they signed. Nothing but files is
needed: the report, its signature, and a list of who may sign, with their keys, as
ALLOWED SIGNERS in ssh-keygen(1) describes it. A report that was changed, or signed by
nobody on the list, ends with status 2.

It says who wrote the file, not that the run was as the file says.` + exitStatus,
		Example: `  echo "vegard@example.org $(cat id_ed25519.pub)" > allowed_signers
  kubectl dr report verify drill.html --signers=allowed_signers`,
		Args: func(c *cobra.Command, args []string) error {
			if len(args) != 1 {
				return hint.Errorf(c.UseLine(), "want one report, not %d", len(args))
			}
			return nil
		},
	}
	out := addOutputFlags(c)
	signers := c.Flags().String("signers", "", "file that lists who may sign, with their public keys")
	from := c.Flags().String("signature", "", "file of the signature; FILE.sig when not given")
	c.RunE = g.run(func(_ context.Context, args []string) error {
		if *signers == "" {
			return hint.Errorf("a line of the file is a name and a public key: vegard@example.org ssh-ed25519 AAAA…",
				"--signers is needed: without it nobody knows whose keys to trust")
		}
		if *from == "" {
			*from = signature.File(args[0])
		}
		s, err := e.verify(args[0], *from, *signers)
		if err != nil {
			return err
		}
		return out.result(e, s)
	})
	return c
}

func (e *env) verify(file, sig, signers string) (*report.Signature, error) {
	var contents [3][]byte
	for i, name := range []string{file, sig, signers} {
		var err error
		if contents[i], err = os.ReadFile(name); err != nil {
			return nil, fmt.Errorf("verify %s: %w", file, err)
		}
	}
	s, err := signature.Verify(contents[0], contents[1], contents[2], e.now())
	if err != nil {
		err = fmt.Errorf("verify %s: %w", file, err)
		var invalid *signature.InvalidError
		if errors.As(err, &invalid) {
			return nil, &unhealthyError{err}
		}
		return nil, err
	}
	return &report.Signature{
		TypeMeta: report.TypeMeta("SignatureReport"), ObjectMeta: metav1.ObjectMeta{Name: filepath.Base(file)}, At: metav1.NewTime(e.now()),
		File: file, Signer: s.Principals, Key: ssh.FingerprintSHA256(s.Key), KeyType: s.Key.Type(),
	}, nil
}
