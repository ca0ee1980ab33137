package protect

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	velerov1api "github.com/vmware-tanzu/velero/pkg/apis/velero/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestNext(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(s string) time.Time {
		parsed, err := time.Parse(time.RFC3339, s)
		require.NoError(t, err)
		return parsed
	}
	ago := func(d time.Duration) *metav1.Time { return &metav1.Time{Time: now.Add(-d)} }
	tests := []struct {
		name     string
		schedule velerov1api.Schedule
		want     []time.Time
	}{
		{"one that is not there yet", velerov1api.Schedule{Spec: velerov1api.ScheduleSpec{Schedule: "@every 5m"}},
			[]time.Time{at("2026-01-02T03:09:05Z"), at("2026-01-02T03:14:05Z")}},
		{"after the last backup", velerov1api.Schedule{Spec: velerov1api.ScheduleSpec{Schedule: "@every 5m"}, Status: velerov1api.ScheduleStatus{LastBackup: ago(2 * time.Minute)}},
			[]time.Time{at("2026-01-02T03:07:05Z"), at("2026-01-02T03:12:05Z")}},
		{"one that is overdue is taken now", velerov1api.Schedule{Spec: velerov1api.ScheduleSpec{Schedule: "0 2 * * *"}, Status: velerov1api.ScheduleStatus{LastBackup: ago(30 * time.Hour)}},
			[]time.Time{now, at("2026-01-03T02:00:00Z")}},
		{"after one that was skipped", velerov1api.Schedule{Spec: velerov1api.ScheduleSpec{Schedule: "0 2 * * *"}, Status: velerov1api.ScheduleStatus{LastBackup: ago(30 * time.Hour), LastSkipped: ago(time.Minute)}},
			[]time.Time{at("2026-01-03T02:00:00Z"), at("2026-01-04T02:00:00Z")}},
		{"none while it is paused", velerov1api.Schedule{Spec: velerov1api.ScheduleSpec{Schedule: "0 2 * * *", Paused: true}}, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			got, err := Next(&tt.schedule, now, 2)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
	_, err := Next(&velerov1api.Schedule{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: velerov1api.ScheduleSpec{Schedule: "often"}}, now, 1)
	require.ErrorContains(t, err, `schedule x: "often"`)
}
