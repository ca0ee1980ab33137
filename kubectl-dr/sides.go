package kubectldr

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1api "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/cluster"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/failover"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/plan"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap"
)

// sides looks at whether an application runs at both.
type sides struct {
	*env
	global   *globalFlags
	plan     *plan.RecoveryPlan
	recovery *cluster.Cluster
}

// compare writes into a status what it finds. It is not asked before the first
// failover: then nothing could run at two sites.
func (s *sides) compare(ctx context.Context, move *plan.RecoveryRun, status *report.Status) {
	if move == nil || status.Role != roleActive && status.Role != roleStandby {
		return
	}
	var err error
	if s.global.hasSource() || status.Active == failover.SourceSite {
		status.BothActive, err = s.pods(ctx, status.Active)
	} else {
		status.BothActive, err = s.volumes(ctx, move)
	}
	if err != nil {
		status.Unknown = "whether the application runs there too is not known: " + err.Error()
	}
	if len(status.BothActive) == 0 {
		return
	}
	if status.Active == failover.RecoverySite {
		stop := "kubectl dr reprotect " + s.plan.Name + " --source-context=…"
		rest := slices.DeleteFunc(status.Next, func(n string) bool { return strings.HasPrefix(n, stop) })
		status.Next = append([]string{stop + ": it stops the source and keeps what was written there"}, rest...)
		return
	}
	status.Next = append([]string{"stop it at the recovery site: the source is active"}, status.Next...)
}

// pods returns those that run at the site that is not active.
func (s *sides) pods(ctx context.Context, active string) ([]string, error) {
	other, site := s.recovery, failover.RecoverySite
	if active == failover.RecoverySite {
		var err error
		if other, err = s.open(s.global.source, s.global.namespace(s.plan)); err != nil {
			return nil, err
		}
		site = failover.SourceSite
	}
	var running []string
	for _, ns := range s.plan.Spec.Source.Namespaces {
		pods := &corev1api.PodList{}
		if err := other.Client.List(ctx, pods, client.InNamespace(ns)); err != nil {
			return nil, fmt.Errorf("list pods in namespace %s of %s: %w", ns, site, err)
		}
		for _, p := range pods.Items {
			if p.Status.Phase == corev1api.PodRunning {
				running = append(running, fmt.Sprintf("pod %s/%s runs at %s too", ns, p.Name, site))
			}
		}
	}
	return running, nil
}

// volumes returns those that a failover left at the source and that are written
// to since.
func (s *sides) volumes(ctx context.Context, move *plan.RecoveryRun) ([]string, error) {
	storage, err := s.storage(ctx, s.recovery, s.global.agentOptions())
	if err != nil {
		return nil, err
	}
	var used []string
	for _, v := range move.Status.Volumes {
		id, err := zfssnap.ParseSnapshotID(v.SnapshotID)
		if err != nil || v.StretchedPool != "" { // a pool is at one site only
			continue
		}
		l, err := storage.Lineage(ctx, id.Node, id.Dataset, id.GUID, "")
		if err != nil {
			return used, err
		}
		if l.Mounted && l.Written > 0 {
			used = append(used, fmt.Sprintf("volume %s on node %s is mounted, and %s were written to it since %s",
				id.Dataset, id.Node, report.Bytes(int64(l.Written)), move.Name))
		}
	}
	return used, nil
}
