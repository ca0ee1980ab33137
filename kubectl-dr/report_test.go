package kubectldr

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
)

var documentFormats = []string{"html", "markdown", "junit"}

func TestReport_documents(t *testing.T) {
	t.Parallel()
	w := movedAway(t, doPlanned)
	w.do(t, doReprotect, doFailback)
	for _, format := range documentFormats {
		golden(t, "look/report -o "+format, w.do(t, "report -o "+format).out)
	}
}

func TestReport_ofADrillThatFailed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// Drills before it, of which one misses an objective and one fails.
	for i, took := range []time.Duration{4 * time.Minute, 5 * time.Minute, 11 * time.Minute, 0, 6 * time.Minute, 0} {
		w.pass(30 * 24 * time.Hour)
		w.addBackup(fmt.Sprintf("wordpress-%d", 3+i), time.Duration(3+i)*time.Minute)
		w.restorePhase = velerov1api.RestorePhaseCompleted
		if took == 0 {
			w.restorePhase = velerov1api.RestorePhasePartiallyFailed
		}
		w.answer = func(rw http.ResponseWriter, _ *http.Request) {
			w.pass(took)
			fmt.Fprint(rw, "<title>Vegard's blog</title>")
		}
		w.run(t.Context(), "drill")
	}
	require.Equal(t, plan.PhaseFailed, w.lastRun(t).Status.Phase)
	for _, format := range documentFormats {
		golden(t, "look/report of a drill that failed, -o "+format, w.do(t, "report -o "+format).out)
	}
}

func TestReport_ofADrillThatWasKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dies(t, "drill --keep", "restore")
	assert.Contains(t, w.do(t, "report -o markdown").out, "| start database | Pending | the run is not there yet |")
	w.do(t, "drill --keep --resume")
	took := regexp.MustCompile(`\S+ from first to last`)
	before := took.FindString(w.do(t, "report -o html").out)
	require.NotEmpty(t, before)
	w.pass(48 * time.Hour)
	w.do(t, "drill cleanup "+w.lastRun(t).Name)
	assert.Equal(t, before, took.FindString(w.do(t, "report -o html").out), "cleaning up two days later is not of the run")
}

func TestReport_whatAnApplicationSaysIsText(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.answer = func(rw http.ResponseWriter, _ *http.Request) { http.Error(rw, "<b>|no</b>", http.StatusBadGateway) }
	p := testPlan()
	p.Spec.Probes[0].Timeout.Duration = 100 * time.Millisecond
	w.plan(p)
	require.Equal(t, 2, w.run(t.Context(), "drill", "-f", "-").code)
	junit := w.do(t, "report -o junit").out
	assert.Contains(t, junit, `failures="1"`)
	assert.Contains(t, junit, "<failure message=")
	for _, format := range documentFormats {
		assert.NotContains(t, w.do(t, "report -o "+format).out, "<b>|no")
	}
}

func TestRun_saysWhoExecutedIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.dies(t, doDisaster, "restore")
	w.dies(t, doDisaster, "start web")
	w.user = "frida@example.org"
	w.do(t, doDisaster)
	by := w.lastRun(t).Status.ExecutedBy
	require.Len(t, by, 2, "one who goes on with the own run is there once")
	golden(t, "look/report of a run that another ended", w.do(t, "report").String())
	golden(t, "look/history wide", w.do(t, "history -o wide").String())

	w = newWorld(t)
	w.user = ""
	w.do(t, "drill")
	by = w.lastRun(t).Status.ExecutedBy
	require.Len(t, by, 1)
	assert.Empty(t, by[0].User, "nobody guesses")
	assert.Equal(t, "dev", by[0].Version)
	golden(t, "look/history of an API server that says nobody's name", w.do(t, "history -o wide").String())
	assert.Contains(t, w.do(t, "report").out, "By        somebody whom the API server did not name, kubectl dr dev\n")
	w.user = "frida@example.org"
	w.do(t, "drill cleanup "+w.lastRun(t).Name)
	assert.Contains(t, w.do(t, "report").out, "dev; from 2026-01-02T03:08:38Z frida@example.org, kubectl dr dev\n", "who cleans up writes to the journal too")
}

// keys are those that the signatures' own tests have; TestSign_isWhatSSHKeygenMakes is
// about what is signed with them.
const keys = "signature/testdata/"

// in runs a command whose files, "$DIR/…", are in a folder.
func (w *world) in(t *testing.T, dir, command string) outcome {
	t.Helper()
	got := w.run(t.Context(), strings.Fields(strings.ReplaceAll(command, "$DIR", dir))...)
	got.out, got.err = strings.ReplaceAll(got.out, dir, "$DIR"), strings.ReplaceAll(got.err, dir, "$DIR")
	return got
}

func TestReport_isSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(t, "drill")
	dir := t.TempDir()
	alice, err := os.ReadFile(keys + "ed25519.pub")
	require.NoError(t, err)
	list := filepath.Join(dir, "allowed_signers")
	require.NoError(t, os.WriteFile(list, append([]byte("alice@example.org "), alice...), 0o600))

	golden(t, "look/report that is signed", w.in(t, dir, "report --file=$DIR/drill.html --sign-key="+keys+"ed25519").String())
	file := filepath.Join(dir, "drill.html")
	content, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, w.do(t, "report -o html").out, string(content), "the file's name says what is in it")
	golden(t, "look/report verify", w.in(t, dir, "report verify $DIR/drill.html --signers=$DIR/allowed_signers").String())
	golden(t, "look/report verify as json", w.in(t, dir, "report verify $DIR/drill.html --signers=$DIR/allowed_signers --signature=$DIR/drill.html.sig -o json").String())

	require.NoError(t, os.WriteFile(file, []byte(strings.Replace(string(content), "33s", "3s", 1)), 0o600))
	golden(t, "look/report verify of one that was changed", w.in(t, dir, "report verify $DIR/drill.html --signers=$DIR/allowed_signers").String())
	again := w.in(t, dir, "report --file=$DIR/drill.html")
	assert.Equal(t, 1, again.code)
	assert.Contains(t, again.err, "$DIR/drill.html is there already", "a report is not overwritten")
	require.NoError(t, os.Remove(file))
	again = w.in(t, dir, "report --file=$DIR/drill.html --sign-key="+keys+"ed25519")
	assert.Contains(t, again.err, "$DIR/drill.html.sig is there already", "nor is a signature")
}

func TestReport_isSignedWithAnEncryptedKey(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(t, "drill")
	dir := t.TempDir()
	passphrase := filepath.Join(dir, "passphrase")
	require.NoError(t, os.WriteFile(passphrase, []byte("correct horse\n"), 0o600))

	w.tty, w.typed = true, "correct horse"
	got := w.in(t, dir, "report "+w.lastRun(t).Name+" --file=$DIR/asked.md --sign-key="+keys+"encrypted")
	require.Zero(t, got.code, got)
	assert.Contains(t, got.err, "Passphrase of "+keys+"encrypted: \nwrote $DIR/asked.md, and $DIR/asked.md.sig: signed with key SHA256:")
	w.tty = false
	got = w.in(t, dir, "report --file=$DIR/unattended.json --sign-key="+keys+"encrypted --sign-passphrase-file=$DIR/passphrase")
	require.Zero(t, got.code, got)
	content, err := os.ReadFile(filepath.Join(dir, "unattended.json"))
	require.NoError(t, err)
	assert.Equal(t, w.do(t, "report -o json").out, string(content))
}

func TestReport_fileOfItsOwnFormat(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(t, "drill")
	dir := t.TempDir()
	for name, format := range map[string]string{"a.md": "markdown", "b.xml": "junit", "c.yaml": "yaml", "d.txt": "", "e.html -o json": "json"} {
		got := w.in(t, dir, "report --file=$DIR/"+name)
		name, _, _ = strings.Cut(name, " ")
		assert.Equal(t, "--- stdout\n--- stderr\nwrote $DIR/"+name+"\n--- exit status 0\n", got.String())
		content, err := os.ReadFile(filepath.Join(dir, name))
		require.NoError(t, err)
		assert.Equal(t, w.do(t, "report --file=- --output="+format).out, string(content))
	}
}

func TestReport_isNotWrittenHalf(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.do(t, "drill")
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "signers"), []byte("alice ssh-ed25519 cut-of\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "report.md"), nil, 0o600))
	for _, tt := range []struct{ command, err, hint string }{
		{"report --sign-key=" + keys + "ed25519", "--sign-key goes with --file", "kubectl dr report --file=report.html --sign-key=" + keys + "ed25519"},
		{"report --file=- --sign-key=" + keys + "ed25519", "--sign-key goes with --file", ""},
		{"report --file=$DIR/x.md --sign-passphrase-file=$DIR/p", "--sign-passphrase-file goes with --sign-key", ""},
		{"report --file=$DIR/x.md --sign-key=" + keys + "encrypted", "there is no terminal to ask for its passphrase on", "--sign-passphrase-file"},
		{"report --file=$DIR/x.md --sign-key=" + keys + "encrypted --sign-passphrase-file=" + keys + "report.md", "the passphrase is wrong", ""},
		{"report --file=$DIR/x.md --sign-key=" + keys + "ed25519.pub", "there is no SSH agent", "give the private key instead"},
		{"report --file=$DIR/nowhere/x.md --sign-key=" + keys + "ed25519", "write the report: open $DIR/nowhere/x.md", ""},
		{"report verify $DIR/report.md", "--signers is needed", "vegard@example.org ssh-ed25519"},
		{"report verify --signers=$DIR/signers", "want one report, not 0", "report verify FILE"},
		{"report verify $DIR/report.md --signers=$DIR/signers", "verify $DIR/report.md: open $DIR/report.md.sig", ""},
		{"report verify " + keys + "report.md --signature=" + keys + "report.md.rsa.sig --signers=$DIR/signers", "list of signers, line 1", ""},
	} {
		got := w.in(t, dir, tt.command)
		assert.Equal(t, 1, got.code, tt.command)
		assert.Contains(t, got.err, tt.err, tt.command)
		assert.Contains(t, got.err, tt.hint, tt.command)
		assert.NotContains(t, got.err, "correct horse")
	}
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	assert.Len(t, left, 2, "nothing was written")
}
