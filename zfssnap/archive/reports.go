package archive

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"time"

	"filippo.io/age"
)

// Report names the report of a run of a plan, as the run was at some time. It is
// kept beside the restore points:
//
//	reports/<plan>/<run>/<at>.<sha256>.json    with .age when it is encrypted
//
// Its name says what is in it, so a report is never replaced by another.
type Report struct {
	Plan, Run string
	At        time.Time // to the millisecond
	SHA256    Digest    // of the report itself, encrypted or not
	Encrypted bool
}

// MaxReport bounds a report, in bytes: no object of Kubernetes is larger.
const MaxReport = 2 << 20

const (
	reportsDir = "reports/"
	reportTime = "20060102-150405.000"
	// maxReportName and reportName are what Kubernetes takes for the name of an object.
	maxReportName = 253
	reportName    = `[a-z0-9](?:[-a-z0-9]*[a-z0-9])?(?:\.[a-z0-9](?:[-a-z0-9]*[a-z0-9])?)*`
)

var (
	reportNames = regexp.MustCompile(`^` + reportName + `$`)
	reportKeys  = regexp.MustCompile(`^` + reportsDir + `(` + reportName + `)/(` + reportName + `)/([-.0-9]+)\.([0-9a-f]{64})\.json(\.age)?$`)
)

func checkReportName(kind, name string) error {
	if len(name) > maxReportName || !reportNames.MatchString(name) {
		return fmt.Errorf("%w: %q is not the name of a %s: at most %d lower-case letters, digits, hyphens and dots", ErrInvalid, name, kind, maxReportName)
	}
	return nil
}

func (r Report) key() string {
	key := fmt.Sprintf("%s%s/%s/%s.%s.json", reportsDir, r.Plan, r.Run, r.At.UTC().Format(reportTime), r.SHA256)
	if r.Encrypted {
		key += ".age"
	}
	return key
}

// parseReport returns the report of a key, false for an object that is none.
func parseReport(key string) (Report, bool) {
	parts := reportKeys.FindStringSubmatch(key)
	if parts == nil {
		return Report{}, false
	}
	r := Report{Plan: parts[1], Run: parts[2], Encrypted: parts[5] != ""}
	var err error
	r.At, err = time.Parse(reportTime, parts[3])
	return r, err == nil && r.SHA256.UnmarshalText([]byte(parts[4])) == nil
}

// KeepReport keeps a report, encrypted when there are recipients. One that is kept
// already is success.
func (s *Store) KeepReport(ctx context.Context, plan, run string, at time.Time, content []byte, recipients []age.Recipient) (Report, error) {
	r := Report{Plan: plan, Run: run, At: at.UTC().Truncate(time.Millisecond), SHA256: sha256.Sum256(content), Encrypted: len(recipients) > 0}
	err := errors.Join(checkReportName("plan", plan), checkReportName("run", run))
	switch {
	case err != nil:
	case at.Unix() <= 0 || at.Year() > 9999:
		err = fmt.Errorf("%w: its time is %d", ErrInvalid, at.Unix())
	case len(content) > MaxReport:
		err = fmt.Errorf("%w: it has %d bytes; the most are %d", ErrInvalid, len(content), MaxReport)
	case !json.Valid(content):
		err = fmt.Errorf("%w: it is not JSON", ErrInvalid)
	}
	if err != nil {
		return r, fmt.Errorf("keep report of run %q of plan %q: %w", run, plan, err)
	}
	stored := content
	if r.Encrypted {
		if stored, err = encrypt(content, recipients); err != nil {
			return r, fmt.Errorf("keep report of run %s: %w", run, err)
		}
	}
	if err := s.Bucket.Put(ctx, r.key(), stored, true); err != nil && !errors.Is(err, ErrExists) {
		return r, fmt.Errorf("keep report of run %s: %w", run, err)
	}
	return r, nil
}

func encrypt(content []byte, recipients []age.Recipient) ([]byte, error) {
	var sealed bytes.Buffer
	w, err := age.Encrypt(&sealed, recipients...)
	if err != nil {
		return nil, err
	}
	_, err = w.Write(content)
	err = errors.Join(err, w.Close())
	return sealed.Bytes(), err
}

// Reports lists the reports of a plan, or with "" of all, those of each run from
// the oldest on.
func (s *Store) Reports(ctx context.Context, plan string) ([]Report, error) {
	prefix := reportsDir
	if plan != "" {
		if err := checkReportName("plan", plan); err != nil {
			return nil, fmt.Errorf("list reports: %w", err)
		}
		prefix += plan + "/"
	}
	objects, err := s.Bucket.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list reports: %w", err)
	}
	var reports []Report
	for _, o := range objects {
		if r, ok := parseReport(o.Key); ok {
			reports = append(reports, r)
		}
	}
	return reports, nil
}

// Report returns a report as it was kept: ErrDamaged when it is not what its name
// says, ErrSealed when no identity opens it.
func (s *Store) Report(ctx context.Context, r Report, identities []age.Identity) ([]byte, error) {
	content, err := s.report(ctx, r, identities)
	if err != nil {
		return nil, fmt.Errorf("read report of run %s: %w", r.Run, err)
	}
	return content, nil
}

func (s *Store) report(ctx context.Context, r Report, identities []age.Identity) ([]byte, error) {
	if _, ok := parseReport(r.key()); !ok {
		return nil, fmt.Errorf("%w: nothing is kept as %s", ErrInvalid, r.key())
	}
	if r.Encrypted && len(identities) == 0 {
		return nil, fmt.Errorf("decrypt: %w", ErrSealed)
	}
	body, err := s.Bucket.Get(ctx, r.key())
	if err != nil {
		return nil, err
	}
	defer body.Close()
	content, err := io.ReadAll(io.LimitReader(body, storedLimit(MaxReport)))
	if err != nil {
		return nil, err
	}
	if r.Encrypted {
		if content, err = decrypt(make([]byte, 0, len(content)+1), content, identities); err != nil {
			return nil, err
		}
	}
	if sha256.Sum256(content) != r.SHA256 {
		return nil, fmt.Errorf("%w: its SHA-256 is not %s", ErrDamaged, r.SHA256)
	}
	return content, nil
}
