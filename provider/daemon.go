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
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
	"github.com/isthmus-hpc/isthmus/provider/account"
	"github.com/isthmus-hpc/isthmus/provider/effect"
	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
	"github.com/isthmus-hpc/isthmus/provider/staging"
)

const (
	defaultTick = 5 * time.Second
	defaultIdle = 30 * time.Second
	// reloadInterval is how often the BatchCluster is looked at for changes.
	reloadInterval = 5 * time.Second
)

// System is a batch system as the daemon uses it.
type System struct {
	Backend backends.Backend
	// Launcher is how the pod runner starts members there.
	Launcher string
}

// Factory connects to the batch system of a cluster through a runner.
type Factory func(cluster *hpcv1alpha1.BatchCluster, runner transport.Runner) (System, error)

// Config makes a Daemon. All fields are required unless they say otherwise.
type Config struct {
	Client kubernetes.Interface
	Source Source
	// Systems has a factory for each spec.type.
	Systems map[string]Factory
	// Runner runs commands where the batch system's commands are.
	Runner transport.Runner
	// Podrun is the absolute path of the pod runner on that host.
	Podrun string
	// Listener is where the kubelet API is served; the daemon closes it.
	Listener net.Listener
	// NodeIP is the address that the API server reaches the listener at.
	NodeIP string
	// API configures certificates and reviews of the kubelet API.
	API kubeletapi.Config
	// Gate is the door for effects; effect.Open when nil.
	Gate effect.Gate
	// Version is shown as the kubelet version of the nodes.
	Version string
	Log     logr.Logger
}

// Daemon serves one BatchCluster.
type Daemon struct {
	Config
	owner string
}

// Run serves until ctx ends, and starts anew with every change of the
// BatchCluster. It returns nil after a graceful stop.
func (c Config) Run(ctx context.Context) error {
	d := &Daemon{Config: c}
	if d.Gate == nil {
		d.Gate = effect.Open{}
	}
	for ctx.Err() == nil {
		cluster, err := d.load(ctx)
		if err != nil {
			return err
		}
		if err := d.serve(ctx, cluster); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// load waits for a valid BatchCluster: an object that comes later, or is
// mended, is no reason to crash.
func (d *Daemon) load(ctx context.Context) (*hpcv1alpha1.BatchCluster, error) {
	said := ""
	for {
		cluster, err := d.Source.Load(ctx)
		if err == nil {
			if err = d.validate(cluster); err == nil {
				return cluster, nil
			}
			d.reportInvalid(ctx, cluster, err)
		}
		if _, fixed := d.Source.(FileSource); fixed {
			return nil, err // a file is given by hand: say it at once
		}
		if err.Error() != said {
			said = err.Error()
			d.Log.Info("waiting for a valid BatchCluster", "error", said)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(reloadInterval):
		}
	}
}

func (d *Daemon) validate(cluster *hpcv1alpha1.BatchCluster) error {
	if err := account.Validate(cluster.Spec.Accounts); err != nil {
		return err
	}
	if _, ok := d.Systems[cluster.Spec.Type]; !ok {
		return fmt.Errorf("spec.type: %q is not served by this daemon", cluster.Spec.Type)
	}
	if len(cluster.Spec.Accounts) == 0 {
		return errors.New("spec.accounts: at least one entry is required, or no pod may run")
	}
	seen := map[string]bool{}
	for i, n := range cluster.Spec.Nodes {
		if seen[n.Name] {
			return fmt.Errorf("spec.nodes[%d].name: %q is there twice", i, n.Name)
		}
		seen[n.Name] = true
	}
	return nil
}

func (d *Daemon) reportInvalid(ctx context.Context, cluster *hpcv1alpha1.BatchCluster, cause error) {
	status := *cluster.Status.DeepCopy()
	status.ObservedGeneration = cluster.Generation
	status.Conditions = []metav1.Condition{{
		Type: hpcv1alpha1.ConditionReady, Status: metav1.ConditionFalse, Reason: "InvalidSpec", Message: cause.Error(),
		ObservedGeneration: cluster.Generation, LastTransitionTime: metav1.Now(),
	}}
	if err := d.Source.Report(ctx, cluster, status); err != nil {
		d.Log.Info("could not write BatchCluster status", "error", err.Error())
	}
}

// serve runs one configuration until ctx ends or the BatchCluster changes.
func (d *Daemon) serve(ctx context.Context, cluster *hpcv1alpha1.BatchCluster) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()

	owner, err := d.waitOwnerTag(ctx, cluster.Name)
	if err != nil {
		return err
	}
	d.owner = owner
	system, err := d.Systems[cluster.Spec.Type](cluster, d.Runner)
	if err != nil {
		return fmt.Errorf("connect to %s: %w", cluster.Name, err)
	}
	digest, err := staging.DigestOf(d.Podrun)
	if err != nil {
		return err
	}
	stager := &staging.Client{Runner: d.Runner, Podrun: d.Podrun, Digest: digest, Directory: cluster.Spec.Staging.Directory}

	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: d.Client.CoreV1().Events("")})
	defer broadcaster.Shutdown()
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "isthmus-vnode", Host: cluster.Name})

	factory := informers.NewSharedInformerFactory(d.Client, 0)
	namespaces := factory.Core().V1().Namespaces()
	namespaceSynced := namespaces.Informer().HasSynced
	factory.Start(ctx.Done())
	defer factory.Shutdown()

	var bridge *Bridge
	pods := newPodInformers(d.Client, func() { bridge.wake() })
	bridge = NewBridge(Options{
		Cluster: cluster, Owner: owner, Launcher: system.Launcher, Backend: system.Backend, Stager: stager,
		Pods:    &kubePods{client: d.Client, recorder: recorder, nodes: pods.Nodes, list: pods.List},
		Objects: &kubeObjects{client: d.Client, namespaces: namespaces.Lister()},
		Gate:    d.Gate, Log: d.Log,
	})
	defer pods.Wait()
	defer cancel()

	api, err := kubeletapi.New(d.API, podSource{pods}, &logReader{bridge: bridge, client: stager})
	if err != nil {
		return err
	}
	serveErr := make(chan error, 1)
	group.Go(func() { serveErr <- api.Serve(ctx, newSharedListener(d.Listener)) })

	if !cache.WaitForCacheSync(ctx.Done(), namespaceSynced) {
		return ctx.Err()
	}
	d.Log.Info("serving", "cluster", cluster.Name, "type", cluster.Spec.Type, "owner", owner)
	f := &front{
		daemon: d, cluster: cluster, system: system, bridge: bridge, pods: pods,
		nodes: newNodeSet(d.Client, d.Log), run: ctx,
	}
	// The readiness barrier: no decision before every pod of our nodes is known.
	if err := f.begin(ctx); err != nil {
		return err
	}
	group.Go(func() { d.watchSpec(ctx, cluster, cancel) })
	loop := make(chan struct{})
	group.Go(func() {
		defer close(loop)
		bridge.Run(ctx, interval(cluster.Spec.Poll.Tick, defaultTick), interval(cluster.Spec.Poll.Idle, defaultIdle), f.after)
	})
	select {
	case <-ctx.Done():
	case err = <-serveErr:
		if err != nil {
			err = fmt.Errorf("serve the kubelet API: %w", err)
		}
	}
	cancel()
	<-loop
	f.nodes.Wait()
	return err
}

// watchSpec ends the configuration when the BatchCluster has another one.
func (d *Daemon) watchSpec(ctx context.Context, cluster *hpcv1alpha1.BatchCluster, cancel context.CancelFunc) {
	if _, fixed := d.Source.(FileSource); fixed {
		return
	}
	ticker := time.NewTicker(reloadInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, err := d.Source.Load(ctx)
		if err != nil || (now.UID == cluster.UID && now.Generation == cluster.Generation) {
			continue // deleted or unreachable: what runs is served to its end
		}
		if err := d.validate(now); err != nil {
			d.reportInvalid(ctx, now, err) // the last good configuration stays
			continue
		}
		d.Log.Info("the BatchCluster changed, starting anew", "generation", now.Generation)
		cancel()
		return
	}
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

// sharedListener lets one configuration after another serve on one listener:
// closing it only ends its own Accept.
type sharedListener struct {
	net.Listener
	once   sync.Once
	closed chan struct{}
}

func newSharedListener(l net.Listener) net.Listener {
	return &sharedListener{Listener: l, closed: make(chan struct{})}
}

func (s *sharedListener) Accept() (net.Conn, error) {
	type deadliner interface{ SetDeadline(time.Time) error }
	for {
		select {
		case <-s.closed:
			return nil, net.ErrClosed
		default:
		}
		if d, ok := s.Listener.(deadliner); ok {
			// A bounded wait, so that Close is noticed without closing the socket.
			if err := d.SetDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
				return nil, fmt.Errorf("accept: %w", err)
			}
		}
		conn, err := s.Listener.Accept()
		var timeout net.Error
		if errors.As(err, &timeout) && timeout.Timeout() {
			continue
		}
		return conn, err
	}
}

func (s *sharedListener) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}
