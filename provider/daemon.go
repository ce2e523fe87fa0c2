package provider

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/effect"
	"github.com/isthmus-hpc/isthmus/provider/events"
	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
	"github.com/isthmus-hpc/isthmus/provider/metrics"
	"github.com/isthmus-hpc/isthmus/provider/servingcert"
	"github.com/isthmus-hpc/isthmus/provider/staging"
	"github.com/isthmus-hpc/isthmus/provider/tracing"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

const (
	defaultTick = 5 * time.Second
	defaultIdle = 30 * time.Second
	// reloadInterval is how often the BatchCluster is looked at for changes, and
	// how long to wait for the API server between tries.
	reloadInterval = 5 * time.Second
)

// System is a batch system as the daemon uses it.
type System struct {
	Backend backends.Backend
	// Launcher is how the pod runner starts members there.
	Launcher string
}

// Connection is how a cluster's commands are reached while one configuration is
// served.
type Connection struct {
	// Runner runs commands where the batch system's commands are.
	Runner transport.Runner
	// Program puts the pod runner on that host; nil where Config.Podrun is there.
	Program staging.Program
	// Close blocks until the commands under way, such as the log that somebody
	// follows, have ended, and takes no more; it may be nil.
	Close func()
}

// Factory connects to the batch system of a cluster through a runner.
type Factory func(cluster *hpcv1alpha1.BatchCluster, runner transport.Runner) (System, error)

// Config makes a Daemon. All fields are required unless they say otherwise.
type Config struct {
	Client kubernetes.Interface
	Source Source
	// Served says which settings of a BatchCluster the factories and this build serve.
	Served validation.Served
	// Systems has a factory for each spec.type.
	Systems map[string]Factory
	// Connect makes the connection of a configuration; it does not wait for the
	// network. Its errors are about the BatchCluster.
	Connect func(ctx context.Context, cluster *hpcv1alpha1.BatchCluster) (Connection, error)
	// Podrun is the absolute path of the pod runner on this host.
	Podrun string
	// Listener is where the kubelet API is served; the daemon closes it.
	Listener net.Listener
	// NodeIP is the address that the API server reaches the listener at.
	NodeIP string
	// API configures certificates and reviews of the kubelet API.
	API kubeletapi.Config
	// Audit takes the record of every submission; the log does when nil.
	Audit func(account.Submission)
	// Certificates gets the serving certificates of the nodes; nil when API has
	// them from files.
	Certificates *servingcert.Manager
	// Metrics takes the daemon's measurements; nil is nobody.
	Metrics prometheus.Registerer
	// Tracer tells a collector what became of each gang; nil tells nobody. Who gives
	// it closes it.
	Tracer *tracing.Tracer
	// Gate is the door for effects; effect.Open when nil.
	Gate effect.Gate
	// Reload is how often the BatchCluster is looked at for changes; 5 s when 0.
	Reload time.Duration
	// APIServer is host:port under which compute hosts reach the API server; pods
	// that carry tokens are told. Empty tells nothing.
	APIServer string
	// Version is shown as the kubelet version of the nodes.
	Version string
	Log     logr.Logger
}

// Daemon serves one BatchCluster.
type Daemon struct {
	Config
	owner   string
	board   *switchboard
	closing sync.WaitGroup  // connections of earlier configurations
	life    context.Context // of the daemon, longer than that of a configuration
	adopted func()          // counts a job that was taken over; nil counts none

	mu sync.Mutex
	// serving is the bridge of the configuration that is served; nil before the first.
	serving *Bridge
	// invalid says what is wrong with a newer BatchCluster than the one that is
	// served; "" when nothing is.
	invalid string
}

// Run serves until ctx ends, and starts anew with every change of the
// BatchCluster; the kubelet API and its streams live through that. It returns
// nil after a graceful stop.
func (c Config) Run(ctx context.Context) error {
	d := &Daemon{Config: c, board: newSwitchboard(), life: ctx}
	if c.Certificates != nil {
		d.API.Certificate = c.Certificates.Get
	}
	if d.Gate == nil {
		d.Gate = effect.Open{}
	}
	if d.Metrics != nil {
		m := metrics.New(d.Gate, time.Now, d.measured)
		if err := d.Metrics.Register(m); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
		d.Gate, d.adopted = m, m.Adopted
	}
	d.Gate = d.Tracer.Gate(d.Gate)
	if d.Audit == nil {
		d.Audit = func(s account.Submission) { d.Log.Info("submission", "record", s) }
	}
	if d.Reload <= 0 {
		d.Reload = reloadInterval
	}
	api, err := kubeletapi.New(d.API, d.board.sources())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var group sync.WaitGroup
	defer d.closing.Wait()
	defer group.Wait()
	defer cancel(nil)
	group.Go(func() {
		if err := api.Serve(ctx, d.Listener); err != nil {
			cancel(fmt.Errorf("serve the kubelet API: %w", err))
		}
	})
	for ctx.Err() == nil {
		cluster, err := d.load(ctx)
		if err == nil {
			err = d.mistake(ctx, cluster, d.serve(ctx, cluster))
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
	if cause := context.Cause(ctx); !errors.Is(cause, context.Canceled) {
		return cause
	}
	return nil
}

// measured is what the present configuration shows of itself.
func (d *Daemon) measured() metrics.State {
	d.mu.Lock()
	bridge := d.serving
	d.mu.Unlock()
	if bridge == nil {
		return metrics.State{}
	}
	return bridge.Measured()
}

// serve runs one configuration until ctx ends or the BatchCluster changes.
func (d *Daemon) serve(ctx context.Context, cluster *hpcv1alpha1.BatchCluster) error {
	parent := ctx
	ctx, cancel := context.WithCancel(parent)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	owner, err := d.waitOwnerTag(ctx, cluster.Name)
	if err != nil {
		return err
	}
	d.owner = owner
	connection, err := d.Connect(ctx, cluster)
	if err != nil {
		return specError{fmt.Errorf("connect to %s: %w", cluster.Name, err)}
	}
	if connection.Close != nil {
		defer d.closing.Go(connection.Close)
	}
	system, err := d.Systems[cluster.Spec.Type](cluster, connection.Runner)
	if err != nil {
		return specError{fmt.Errorf("connect to %s: %w", cluster.Name, err)}
	}
	stager := &staging.Client{Runner: connection.Runner, Directory: cluster.Spec.Staging.Directory, Podrun: cluster.Spec.Staging.Podrun}
	if translate.RunsImages(cluster) {
		stager.Images = &cluster.Spec.Images
	}
	if stager.Podrun == "" { // the site has none: ours is handed over
		stager.Podrun, stager.Program = d.Podrun, connection.Program
		if stager.Digest, err = staging.DigestOf(d.Podrun); err != nil {
			return err
		}
	}

	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(events.Sink{EventSink: &typedcorev1.EventSinkImpl{Interface: d.Client.CoreV1().Events("")}})
	defer broadcaster.Shutdown()
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: events.Component, Host: cluster.Name})

	factory := informers.NewSharedInformerFactory(d.Client, 0)
	namespaces := factory.Core().V1().Namespaces()
	namespaceSynced := namespaces.Informer().HasSynced
	factory.Start(ctx.Done())
	defer factory.Shutdown()

	var bridge *Bridge
	pods := newPodInformers(d.Client, func() { bridge.wake() })
	bridge = NewBridge(Options{
		Cluster: cluster, Owner: owner, Launcher: system.Launcher, Backend: system.Backend, Stager: stager,
		Pods:      &kubePods{client: d.Client, recorder: recorder, nodes: pods.Nodes, list: pods.List},
		APIServer: d.APIServer,
		Objects:   &kubeObjects{client: d.Client, namespaces: namespaces.Lister()},
		Gate:      d.Gate, Log: d.Log, Audit: d.Audit, Adopted: d.adopted, Tracer: d.Tracer,
	})
	d.mu.Lock()
	d.serving = bridge
	d.mu.Unlock()
	defer pods.Wait()
	defer cancel()

	streams := newPodStreams(bridge, system, connection.Runner)
	defer func() { streams.retire(parent.Err() != nil) }()
	settled := d.board.connect(kubeletapi.Sources{
		Pods: podSource{pods}, Logs: &logReader{bridge: bridge, client: stager}, Streams: streams, Usage: newPodUsage(bridge, podSource{pods}),
	})

	if !cache.WaitForCacheSync(ctx.Done(), namespaceSynced) {
		return ctx.Err()
	}
	d.Log.Info("serving", "cluster", cluster.Name, "type", cluster.Spec.Type, "owner", owner)
	f := &front{
		daemon: d, cluster: cluster, system: system, bridge: bridge, pods: pods,
		nodes: newNodeSet(d.Client, d.Log), run: ctx,
		reservations: NewReservations(bridge, kubeReservations{client: d.Client, manager: "isthmus-vnode-" + owner}),
	}
	// The readiness barrier: no decision before every pod of our nodes is known.
	if err := f.begin(ctx); err != nil {
		return err
	}
	group.Go(func() { d.watchSpec(ctx, cluster, recorder, cancel) })
	loop := make(chan struct{})
	group.Go(func() {
		defer close(loop)
		bridge.Run(ctx, interval(cluster.Spec.Poll.Tick, defaultTick), interval(cluster.Spec.Poll.Idle, defaultIdle), func(ctx context.Context, fresh bool) {
			if fresh {
				settled()
			}
			f.after(ctx, fresh)
		})
	})
	<-ctx.Done()
	<-loop
	f.nodes.Wait()
	return nil
}

// waitOwnerTag waits for the API server, which may be away when the
// BatchCluster changed or at the start.
func (d *Daemon) waitOwnerTag(ctx context.Context, name string) (string, error) {
	for {
		owner, err := d.ownerTag(ctx, name)
		if err == nil || ctx.Err() != nil {
			return owner, err
		}
		d.Log.Info("waiting for the API server", "error", err.Error())
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(reloadInterval):
		}
	}
}

// ownerTag names this Kubernetes cluster and BatchCluster to the batch system,
// so that two Kubernetes clusters can share it and never touch each other's jobs.
func (d *Daemon) ownerTag(ctx context.Context, name string) (string, error) {
	ns, err := d.Client.CoreV1().Namespaces().Get(ctx, metav1.NamespaceSystem, metav1.GetOptions{})
	if err != nil {
		return "", fmt.Errorf("identify the Kubernetes cluster by its namespace %s: %w", metav1.NamespaceSystem, err)
	}
	sum := sha256.Sum256([]byte(string(ns.UID) + "\x00" + name))
	short := name
	if len(short) > 40 {
		short = short[:40]
	}
	tag := []byte(short + "-" + hex.EncodeToString(sum[:6]))
	for i, c := range tag {
		if c == '.' {
			tag[i] = '-'
		}
	}
	return string(tag), nil
}

func interval(d *metav1.Duration, fallback time.Duration) time.Duration {
	if d == nil || d.Duration < time.Second {
		return fallback
	}
	return d.Duration
}
