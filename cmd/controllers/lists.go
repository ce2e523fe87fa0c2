package main

import (
	"context"
	"fmt"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	batch "volcano.sh/apis/pkg/apis/batch/v1alpha1"
	bus "volcano.sh/apis/pkg/apis/bus/v1alpha1"
	flow "volcano.sh/apis/pkg/apis/flow/v1alpha1"
	scheduling "volcano.sh/apis/pkg/apis/scheduling/v1beta1"
	topology "volcano.sh/apis/pkg/apis/topology/v1alpha1"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/certificate"
	"github.com/isthmus-hpc/isthmus/controllers/cronjob"
	"github.com/isthmus-hpc/isthmus/controllers/dataset"
	"github.com/isthmus-hpc/isthmus/controllers/hypernode"
	"github.com/isthmus-hpc/isthmus/controllers/job"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/env"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/hcclrank"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/mindspore"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/mpi"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/pytorch"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/ray"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/ssh"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/svc"
	"github.com/isthmus-hpc/isthmus/controllers/job/plugins/tensorflow"
	"github.com/isthmus-hpc/isthmus/controllers/jobflow"
	"github.com/isthmus-hpc/isthmus/controllers/podgroup"
	"github.com/isthmus-hpc/isthmus/controllers/queue"
)

// schemes are the API groups that the controllers speak.
func schemes() []func(*runtime.Scheme) error {
	return []func(*runtime.Scheme) error{
		clientgoscheme.AddToScheme,
		batch.AddToScheme,
		scheduling.AddToScheme,
		bus.AddToScheme,
		flow.AddToScheme,
		topology.AddToScheme,
		hpc.AddToScheme,
	}
}

// jobPlugins are what spec.plugins of a Job may name.
func jobPlugins() plugins.Set {
	return plugins.Set{
		env.Factory(),
		svc.Factory(),
		ssh.Factory(),
		pytorch.Factory(),
		tensorflow.Factory(),
		mpi.Factory(),
		ray.Factory(),
		hcclrank.Factory(),
		mindspore.Factory(),
	}
}

// addControllers registers every controller of this program.
func addControllers(ctx context.Context, mgr ctrl.Manager, o options) error {
	jobs := &job.Reconciler{
		Client:  mgr.GetClient(),
		Live:    mgr.GetAPIReader(),
		Events:  mgr.GetEventRecorder(job.Name),
		Plugins: jobPlugins(),
		Now:     o.now,
		Workers: o.workers,
	}
	if err := jobs.SetupWithManager(ctx, mgr); err != nil {
		return err
	}
	queues := &queue.Reconciler{Client: mgr.GetClient(), Events: mgr.GetEventRecorder(queue.Name)}
	if err := queues.SetupWithManager(mgr); err != nil {
		return err
	}
	if o.podGroups {
		groups := &podgroup.Reconciler{
			Client: mgr.GetClient(), Events: mgr.GetEventRecorder(podgroup.Name), Schedulers: o.schedulers, Inherit: o.inherit, Workers: o.workers,
		}
		if err := groups.SetupWithManager(ctx, mgr); err != nil {
			return err
		}
	}
	hyper := &hypernode.Reconciler{Client: mgr.GetClient(), Levels: o.hyperLabels, SlurmFile: o.slurmTopology}
	if hyper.Active() {
		if err := hyper.SetupWithManager(mgr); err != nil {
			return err
		}
	}
	crons := &cronjob.Reconciler{Client: mgr.GetClient(), Events: mgr.GetEventRecorder(cronjob.Name), Now: o.now}
	if err := crons.SetupWithManager(ctx, mgr); err != nil {
		return err
	}
	flows := &jobflow.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: mgr.GetEventRecorder(jobflow.Name), Now: o.now}
	if err := flows.SetupWithManager(ctx, mgr); err != nil {
		return err
	}
	if err := (&jobflow.Templates{Client: mgr.GetClient()}).SetupWithManager(ctx, mgr); err != nil {
		return err
	}
	data := &dataset.Reconciler{Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Events: mgr.GetEventRecorder(dataset.Name), Now: o.now}
	if err := data.SetupWithManager(ctx, mgr); err != nil {
		return err
	}
	if err := o.webhook.add(mgr); err != nil {
		return err
	}
	if len(o.vnodeUsers) == 0 {
		return nil // without a virtual kubelet there is nobody to approve for
	}
	certificates := &certificate.Reconciler{
		Client: mgr.GetClient(), Live: mgr.GetAPIReader(), Requesters: o.vnodeUsers, Signer: o.certSigner, Now: o.now,
	}
	return certificates.SetupWithManager(mgr)
}

func newManager(ctx context.Context, cfg *rest.Config, o options, log logr.Logger) (ctrl.Manager, error) {
	scheme := runtime.NewScheme()
	for _, add := range schemes() {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("register API types: %w", err)
		}
	}
	mgr, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme,
		Logger:                        log,
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              "isthmus-controllers",
		LeaderElectionNamespace:       o.leaderNamespace,
		LeaderElectionReleaseOnCancel: true,
		HealthProbeBindAddress:        o.healthAddress,
		Metrics:                       metricsserver.Options{BindAddress: o.metricsAddress},
		Cache:                         cache.Options{DefaultTransform: cache.TransformStripManagedFields(), ByObject: podgroup.Caching()},
		// A process may have several managers one after another, as tests do; the
		// names of our controllers are constants and differ.
		Controller: config.Controller{SkipNameValidation: ptr.To(true)},
		Client: client.Options{Cache: &client.CacheOptions{
			DisableFor: job.Uncached(),
			// A pass must see what the pass before it wrote.
			EnableReadYourWritesConsistency: ptr.To(true),
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("make manager: %w", err)
	}
	if err := addControllers(ctx, mgr, o); err != nil {
		return nil, err
	}
	if err := mgr.AddHealthzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("add health check: %w", err)
	}
	if err := mgr.AddReadyzCheck("ping", healthz.Ping); err != nil {
		return nil, fmt.Errorf("add readiness check: %w", err)
	}
	return mgr, nil
}
