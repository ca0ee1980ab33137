package standby

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1api "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// Record is what the recovery cluster remembers of a standby, in ConfigMap
// "<plan>-standby" in Velero's namespace.
type Record struct {
	// Backup is what the standby is at, "" before it is at any, and BackupAt when that
	// was taken.
	Backup   string
	BackupAt time.Time
	State    report.State
	// Message says what is wrong with it.
	Message string
	// Kinds are those that it has or had objects of.
	Kinds []string
}

// The keys of the ConfigMap.
const (
	keyBackup   = "backup"
	keyBackupAt = "backupAt"
	keyState    = "state"
	keyMessage  = "message"
	keyKinds    = "kinds"
)

// RecordName is the name of the ConfigMap.
func RecordName(plan string) string { return plan + "-standby" }

func (r *Record) kinds() []schema.GroupKind {
	var all []schema.GroupKind
	for _, kind := range r.Kinds {
		all = append(all, schema.ParseGroupKind(kind))
	}
	return all
}

// Record reads it; it is empty when there is none.
func (s *Standby) Record(ctx context.Context) (*Record, error) {
	cm, err := s.configMap(ctx)
	if err != nil {
		return nil, err
	}
	at, _ := time.Parse(time.RFC3339, cm.Data[keyBackupAt])
	return &Record{
		Backup: cm.Data[keyBackup], BackupAt: at, State: report.State(cm.Data[keyState]), Message: cm.Data[keyMessage], Kinds: strings.Fields(cm.Data[keyKinds]),
	}, nil
}

// configMap reads the record, or returns a new one.
func (s *Standby) configMap(ctx context.Context) (*corev1api.ConfigMap, error) {
	cm := &corev1api.ConfigMap{}
	err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.Namespace, Name: RecordName(s.Plan)}, cm)
	switch {
	case apierrors.IsNotFound(err):
		return &corev1api.ConfigMap{ObjectMeta: metav1.ObjectMeta{
			Namespace: s.Namespace, Name: RecordName(s.Plan), Labels: map[string]string{zfssnap.LabelPlan: s.Plan},
		}}, nil
	case err != nil:
		return nil, fmt.Errorf("get the record of the standby: %w", err)
	case cm.Labels[zfssnap.LabelPlan] != s.Plan:
		return nil, fmt.Errorf("ConfigMap %s/%s is there already, and is no record of a standby", s.Namespace, cm.Name)
	}
	return cm, nil
}

func (s *Standby) remember(ctx context.Context, kinds []schema.GroupKind) error {
	var all []string
	for _, gk := range kinds {
		all = append(all, gk.String())
	}
	slices.Sort(all)
	return s.write(ctx, map[string]string{keyKinds: strings.Join(all, " ")})
}

// Note records that the standby is at a backup, and what is wrong with it.
func (s *Standby) Note(ctx context.Context, r *report.Sync) error {
	message := ""
	if r.State != report.OK {
		left := 0
		for _, o := range r.Objects {
			if o.Done == "" {
				left++
			}
		}
		message = report.Count(left, "difference") + " left"
	}
	return s.write(ctx, map[string]string{
		keyBackup: r.Backup, keyBackupAt: r.BackupAt.UTC().Format(time.RFC3339), keyState: string(r.State), keyMessage: message,
	})
}

// write changes the record, if there is anything to change.
func (s *Standby) write(ctx context.Context, data map[string]string) error {
	cm, err := s.configMap(ctx)
	if err != nil {
		return err
	}
	before := cm.DeepCopy()
	if cm.Data == nil {
		cm.Data = map[string]string{}
	}
	for name, value := range data {
		cm.Data[name] = value
	}
	switch {
	case cm.ResourceVersion == "":
		err = s.Client.Create(ctx, cm)
	case !equality.Semantic.DeepEqual(before.Data, cm.Data):
		err = s.Client.Patch(ctx, cm, client.MergeFrom(before))
	}
	if err != nil {
		return fmt.Errorf("record the standby: %w", err)
	}
	return nil
}
