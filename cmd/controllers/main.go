// Command controllers runs the controllers of the Volcano API: it turns Jobs
// into PodGroups and pods, and keeps the status of Jobs and Queues.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
	_ "time/tzdata" // CronJobs name time zones, and an image may have none

	"github.com/go-logr/logr"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"github.com/isthmus-hpc/isthmus/cmd/internal/version"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := command(installLogger).ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "controllers:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	kubeconfig      string
	leaderElect     bool
	leaderNamespace string
	metricsAddress  string
	healthAddress   string
	qps             float32
	burst           int
	workers         int
	vnodeUsers      []string
	certSigner      string
	podGroups       bool
	schedulers      []string
	inherit         bool
	hyperLabels     []string
	slurmTopology   string
	webhook         webhookOptions
	volcano         volcanoFlags
	verbosity       int
	now             func() time.Time // the clock of what waits for times
}

// installLogger makes log that of the libraries as well, which is a setting of
// the whole process.
func installLogger(log logr.Logger) {
	ctrl.SetLogger(log)
	klog.SetLogger(log)
}

// command is the command line; install is given the logger before work begins.
func command(install func(logr.Logger)) *cobra.Command {
	o := options{now: time.Now}
	cmd := &cobra.Command{
		Use:           "controllers",
		Version:       version.String(),
		Short:         "Run the controllers of the Volcano API",
		Args:          noArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := logr.FromSlogHandler(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.Level(-o.verbosity)}))
			install(log)
			cmd.Flags().Visit(func(f *pflag.Flag) {
				if f.Hidden {
					log.Info("flag is known and not used by these controllers", "flag", "--"+f.Name)
				}
			})
			o.volcano.resolve(&o)
			return run(cmd.Context(), o, log)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.kubeconfig, "kubeconfig", "", "path of a kubeconfig; the pod's service account when empty")
	f.BoolVar(&o.leaderElect, "leader-elect", true, "let one of several replicas work at a time")
	f.StringVar(&o.leaderNamespace, "leader-election-namespace", "", "namespace of the lease; the pod's own when empty, kube-system with --kubeconfig")
	f.StringVar(&o.metricsAddress, "metrics-bind-address", "0", `HOST:PORT of the metrics; "0" turns them off`)
	f.StringVar(&o.healthAddress, "health-probe-bind-address", "0", `HOST:PORT of /healthz and /readyz; "0" turns them off`)
	f.Float32Var(&o.qps, "kube-api-qps", 100, "requests a second to the API server, on average")
	f.IntVar(&o.burst, "kube-api-burst", 200, "requests to the API server at once")
	f.IntVar(&o.workers, "workers", 8, "jobs that are handled in parallel")
	f.StringSliceVar(&o.vnodeUsers, "vnode-user", nil, "users that virtual kubelets are: their requests for serving certificates of virtual nodes are approved; without one, none are looked at")
	f.StringVar(&o.certSigner, "cert-signer", certificatesv1.KubeletServingSignerName, "signer of the serving certificates of virtual nodes, as virtual kubelets are told")
	f.BoolVar(&o.podGroups, "pod-groups", true, "give PodGroups to pods that come without one, alone or by their owner")
	f.StringSliceVar(&o.schedulers, "scheduler-name", []string{wellknown.SchedulerVolcano, wellknown.SchedulerIsthmus}, "schedulerName of the pods that get PodGroups, may be given more than once")
	f.BoolVar(&o.inherit, "inherit-owner-annotations", true, "PodGroups take annotations of the owners of their pods")
	f.StringSliceVar(&o.hyperLabels, "hypernode-labels", nil, "labels of nodes from whose values HyperNodes are made, of tier 1 first; without one none are made")
	f.StringVar(&o.slurmTopology, "hypernode-slurm-topology", "", "file in the form of Slurm's topology.conf or of scontrol show topology, read again and again, from whose switches HyperNodes are made")
	o.webhook.addFlags(f)
	o.volcano.addFlags(f, &o)
	f.IntVarP(&o.verbosity, "v", "v", 0, "log level: 0 for operators, 1 for developers")
	return cmd
}

// noArgs refuses arguments that are no flags, but for the one with which Volcano's
// own chart ends the list: it means nothing there either, since no shell reads it.
func noArgs(c *cobra.Command, args []string) error {
	return cobra.NoArgs(c, slices.DeleteFunc(slices.Clone(args), func(a string) bool { return a == "2>&1" }))
}

func run(ctx context.Context, o options, log logr.Logger) error {
	if o.workers < 1 || o.qps <= 0 || o.burst < 1 {
		return fmt.Errorf("--workers, --kube-api-qps and --kube-api-burst must be positive, got %d, %g and %d", o.workers, o.qps, o.burst)
	}
	if err := o.webhook.check(); err != nil {
		return err
	}
	cfg, err := restConfig(o)
	if err != nil {
		return err
	}
	if o.kubeconfig != "" && o.leaderNamespace == "" {
		o.leaderNamespace = "kube-system"
	}
	mgr, err := newManager(ctx, cfg, o, log)
	if err != nil {
		return err
	}
	if err := mgr.Start(ctx); err != nil {
		return fmt.Errorf("run controllers: %w", err)
	}
	return nil
}

func restConfig(o options) (*rest.Config, error) {
	var cfg *rest.Config
	var err error
	if o.kubeconfig != "" {
		cfg, err = clientcmd.BuildConfigFromFlags("", o.kubeconfig)
	} else {
		cfg, err = rest.InClusterConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("load client configuration: %w", err)
	}
	cfg.QPS, cfg.Burst = o.qps, o.burst
	cfg.UserAgent = "isthmus-controllers"
	return cfg, nil
}
