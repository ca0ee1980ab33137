package kubectldr

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/etcd"
	"github.com/kubectl-dr/kubectl-dr/kubectl-dr/report"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/hint"
)

func newCmdEtcd(e *env, g *globalFlags) *cobra.Command {
	c := &cobra.Command{
		Use:     "etcd",
		Short:   "Take, check, compare and restore snapshots of the control plane's etcd",
		GroupID: groupOther,
		Long: `Take, check, compare and restore snapshots of the control plane's etcd. They work
with etcd itself and with files, and need no apiserver.

A snapshot holds every Secret of the cluster. Files are readable by their owner
only; in an archive they are encrypted when its configuration names recipients.`,
	}
	c.AddCommand(newCmdEtcdSnapshot(e, g), newCmdEtcdList(e, g), newCmdEtcdVerify(e, g), newCmdEtcdDiff(e, g), newCmdEtcdRestore(e, g))
	return c
}

// etcdFlags are those that several commands have.
type etcdFlags struct {
	archive    string
	encryption string
}

func (f *etcdFlags) addArchive(c *cobra.Command, usage string) {
	c.Flags().StringVar(&f.archive, "archive", "", usage+" (a configuration as that of zfs-agent archive)")
}

func (f *etcdFlags) addEncryption(c *cobra.Command) {
	c.Flags().StringVar(&f.encryption, "encryption-config", "", "file of the apiserver's --encryption-provider-config")
}

// open opens the archive, nil when none is given.
func (f *etcdFlags) open() (*etcd.Archive, error) {
	if f.archive == "" {
		return nil, nil
	}
	config, err := archive.LoadConfig(f.archive)
	if err != nil {
		return nil, err
	}
	store, err := config.Open()
	if err != nil {
		return nil, err
	}
	a := &etcd.Archive{Bucket: store.Bucket}
	if a.Recipients, err = archive.ParseRecipients(config.Recipients); err != nil {
		return nil, err
	}
	a.Identities, err = config.Identities()
	return a, err
}

func (f *etcdFlags) config() (*etcd.EncryptionConfig, error) {
	if f.encryption == "" {
		return nil, nil
	}
	return etcd.ReadEncryptionConfig(f.encryption)
}

// use hands over a snapshot as a file, and the configuration of encryption: the
// file given, or with an archive the snapshot of that name, which is fetched for
// the while.
func (f *etcdFlags) use(ctx context.Context, given string, do func(file string, config *etcd.EncryptionConfig) error) error {
	config, err := f.config()
	if err != nil {
		return err
	}
	a, err := f.open()
	if err != nil {
		return err
	}
	if a == nil {
		return do(given, config)
	}
	dir, err := os.MkdirTemp("", "kubectl-dr-etcd-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, etcd.Name(given)+etcd.Extension)
	if _, err := a.Get(ctx, etcd.Name(given), file); err != nil {
		return err
	}
	return do(file, config)
}

func newCmdEtcdSnapshot(e *env, g *globalFlags) *cobra.Command {
	f := &etcdFlags{}
	var server etcd.Server
	c := &cobra.Command{
		Use:   "snapshot FILE",
		Short: "Take a consistent snapshot",
		Long: `Take a consistent snapshot of a member of etcd, and write down beside it, in
FILE.json, what it is: revision, hash, and with which keys its values are
encrypted. FILE must not exist. With --archive it is stored there too, under the
name of FILE without .db.

With --encryption-config fingerprints of the keys are written down, so that
verify can tell whether a standby has the same ones.` + exitStatus,
		Example: `  # On a control plane node that kubeadm made
  pki=/etc/kubernetes/pki/etcd
  kubectl dr etcd snapshot /var/backups/etcd-$(date +%F).db \\
    --cacert=$pki/ca.crt --cert=$pki/healthcheck-client.crt --key=$pki/healthcheck-client.key

  # From a timer, to the bucket that volumes are archived in
  kubectl dr etcd snapshot /var/backups/etcd-$(date +%F).db --archive=/etc/zfs-agent/archive.yaml …`,
		Args: cobra.ExactArgs(1),
	}
	flags := c.Flags()
	flags.StringVar(&server.Endpoint, "endpoint", "https://127.0.0.1:2379", "member to take it from")
	flags.StringVar(&server.CA, "cacert", "", "file with etcd's authority")
	flags.StringVar(&server.Cert, "cert", "", "file with the client's certificate")
	flags.StringVar(&server.Key, "key", "", "file with the client's key")
	f.addArchive(c, "store it in this archive too")
	f.addEncryption(c)
	out := addOutputFlags(c)
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		if (server.Cert == "") != (server.Key == "") {
			return errors.New("--cert and --key go together")
		}
		config, err := f.config()
		if err != nil {
			return err
		}
		a, err := f.open()
		if err != nil {
			return err
		}
		s, err := etcd.Take(ctx, server, args[0], config, e.now())
		if err != nil {
			return err
		}
		fmt.Fprintf(e.ErrOut, "wrote %s and %s\n", args[0], etcd.ManifestFile(args[0]))
		if a != nil {
			if err := a.Put(ctx, args[0], s); err != nil {
				return err
			}
			if !s.Sealed {
				fmt.Fprintln(e.ErrOut, "warning: it is stored as it is, with every Secret of the cluster; name recipients in the archive's configuration")
			}
		}
		return out.result(e, s)
	})
	return c
}

func newCmdEtcdList(e *env, g *globalFlags) *cobra.Command {
	f := &etcdFlags{}
	c := &cobra.Command{
		Use:     "list --archive=FILE",
		Short:   "List the snapshots in an archive",
		Long:    "List the snapshots in an archive, the newest last." + exitStatus,
		Example: `  kubectl dr etcd list --archive=/etc/zfs-agent/archive.yaml -o wide`,
		Args:    cobra.NoArgs,
	}
	f.addArchive(c, "the archive")
	out := addOutputFlags(c)
	c.RunE = g.run(func(ctx context.Context, _ []string) error {
		a, err := f.open()
		if err != nil {
			return err
		}
		if a == nil {
			return errors.New("--archive is needed")
		}
		list, err := a.List(ctx)
		if err != nil {
			return err
		}
		return out.result(e, list)
	})
	return c
}

func newCmdEtcdVerify(e *env, g *globalFlags) *cobra.Command {
	f := &etcdFlags{}
	c := &cobra.Command{
		Use:   "verify FILE | NAME --archive=FILE",
		Short: "Check that a snapshot is whole and that a standby could read it",
		Long: `Check that a snapshot is whole, that it is the one that was taken, and with
--encryption-config that a control plane with that configuration could read every
value in it. Nothing is restored.` + exitStatus,
		Example: `  # Could the standby's apiserver read it?
  kubectl dr etcd verify etcd-2026-03-04.db --encryption-config=/etc/kubernetes/encryption.yaml

  # One in the archive
  kubectl dr etcd verify etcd-2026-03-04 --archive=/etc/zfs-agent/archive.yaml`,
		Args: cobra.ExactArgs(1),
	}
	f.addArchive(c, "take the snapshot of that name from this archive")
	f.addEncryption(c)
	out := addOutputFlags(c)
	strict := c.Flags().Bool("strict", false, "exit with status 2 on warnings too")
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		return f.use(ctx, args[0], func(file string, config *etcd.EncryptionConfig) error {
			s, group, err := etcd.Verify(file, config)
			if err != nil {
				return err
			}
			r := &report.Check{TypeMeta: report.TypeMeta("EtcdVerification"), ObjectMeta: metav1.ObjectMeta{Name: s.Name}, At: metav1.Time{Time: e.now()}, State: report.OK}
			r.Add(group.Name, group.Items...)
			return e.judged(out.result(e, r), r.State, *strict)
		})
	})
	return c
}

func newCmdEtcdDiff(e *env, g *globalFlags) *cobra.Command {
	exclude, prefix := slices.Clone(etcd.Volatile), "/registry/"
	c := &cobra.Command{
		Use:   "diff SOURCE-FILE STANDBY-FILE",
		Short: "Compare the keys of two snapshots",
		Long: `Compare the keys of two snapshots: those that the standby lacks, has beyond the
source, or has otherwise. Objects of live clusters are compared by kubectl dr
compare.` + exitStatus,
		Example: `  kubectl dr etcd diff primary.db standby.db`,
		Args:    cobra.ExactArgs(2),
	}
	c.Flags().StringVar(&prefix, "prefix", prefix, "compare the keys below this one")
	c.Flags().StringSliceVar(&exclude, "exclude", exclude, "leave out keys that begin with these")
	out := addOutputFlags(c)
	c.RunE = g.run(func(_ context.Context, args []string) error {
		r, err := etcd.Diff(args[0], args[1], prefix, exclude)
		if err != nil {
			return err
		}
		if r.Compared == 0 {
			return hint.Errorf("keys of a Kubernetes cluster are below /registry/ unless its apiserver has --etcd-prefix", "%s has no keys below %s", args[0], prefix)
		}
		r.TypeMeta, r.Name, r.At = report.TypeMeta("Comparison"), "etcd", metav1.Time{Time: e.now()}
		return e.judged(out.result(e, r), r.State, false)
	})
	return c
}

func newCmdEtcdRestore(e *env, g *globalFlags) *cobra.Command {
	f := &etcdFlags{}
	m := etcd.Member{BumpRevision: 1_000_000_000}
	c := &cobra.Command{
		Use:   "restore FILE | NAME --archive=FILE",
		Short: "Make the data of a new etcd of a snapshot",
		Long: `Make the data of a new etcd of a snapshot, which is checked first. The folder must
not exist or be empty: data of an etcd are never overwritten.

The revision is raised, so that controllers that watched the lost cluster do not
take what is restored for something of the past (etcd's --bump-revision with
--mark-compacted).` + exitStatus,
		Example: `  # A control plane of one node
  kubectl dr etcd restore etcd-2026-03-04.db --data-dir=/var/lib/etcd \\
    --name=cp1 --peer-url=https://10.0.0.11:2380 --encryption-config=/etc/kubernetes/encryption.yaml`,
		Args: cobra.ExactArgs(1),
	}
	flags := c.Flags()
	flags.StringVar(&m.DataDir, "data-dir", "", "folder to make, etcd's --data-dir")
	flags.StringVar(&m.Name, "name", "default", "name of the member, etcd's --name")
	flags.StringVar(&m.PeerURL, "peer-url", "http://localhost:2380", "etcd's --initial-advertise-peer-urls")
	flags.StringVar(&m.Cluster, "initial-cluster", "", "all first members as name=url,… (default: this one alone)")
	flags.StringVar(&m.Token, "initial-cluster-token", "etcd-cluster", "etcd's --initial-cluster-token")
	flags.Uint64Var(&m.BumpRevision, "bump-revision", m.BumpRevision, "raise the revision by this much; 0 leaves it")
	f.addArchive(c, "take the snapshot of that name from this archive")
	f.addEncryption(c)
	if err := c.MarkFlagRequired("data-dir"); err != nil {
		panic(err) // it was declared above
	}
	out := addOutputFlags(c)
	c.RunE = g.run(func(ctx context.Context, args []string) error {
		return f.use(ctx, args[0], func(file string, config *etcd.EncryptionConfig) error {
			s, err := etcd.Restore(file, m, config)
			if err != nil {
				return err
			}
			fmt.Fprintf(e.ErrOut, "restored to %s; start etcd with --data-dir=%s --name=%s, and an apiserver that has the keys of encryption and of service accounts\n", m.DataDir, m.DataDir, m.Name)
			return out.result(e, s)
		})
	})
	return c
}
