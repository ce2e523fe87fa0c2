// Package environment runs the whole of Isthmus on this machine: a real control
// plane, a real Slurm (or, where that cannot be, the batch system of type
// local), the mapped accounts, and the programs built from the checkout. Tests,
// `isthmus demo` and `isthmus up` use the same one.
//
// Everything it keeps is in one directory and in one staging directory; ports
// are free ones; so several environments live side by side, but for Slurm's
// munge, which the slurm package guards.
package environment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"sigs.k8s.io/controller-runtime/pkg/client"

	hpc "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
	"github.com/isthmus-hpc/isthmus/test/testbed/controlplane"
	"github.com/isthmus-hpc/isthmus/test/testbed/kubelet"
	"github.com/isthmus-hpc/isthmus/test/testbed/process"
)

// stopGrace is how long each program gets to end by itself.
const stopGrace = 10 * time.Second

// Batch systems that Config.Batch may name.
const (
	BatchSlurm = "slurm"
	BatchLocal = "local"
	// BatchPBS and BatchTorque are played by a stand-in (package pbs).
	BatchPBS    = "pbs"
	BatchTorque = "torque"
)

// ClusterName is the name of the environment's BatchCluster.
const ClusterName = "testbed"

// Config of an environment.
type Config struct {
	// Dir holds its state and is created 0700; it must be empty or absent.
	Dir string
	// Batch is one of those above, or "" for Slurm where it can run and local
	// elsewhere.
	Batch string
	// Detached lets everything outlive this program; Attach finds it again.
	// Otherwise all ends with this program, also when it is killed.
	Detached bool
	// RealNode adds a real kubelet with containerd as a node of that name, which
	// has the taint RealNodeTaint. It needs root.
	RealNode string
	// REST adds slurmrestd to Slurm, see slurm.Config, for a BatchCluster that
	// uses it or may come to. It is not there with BatchLocal.
	REST bool
	// Networks gives Slurm's hosts, four in each partition, names and networks of
	// their own, see slurm.Config. It needs root.
	Networks bool
	// Version is another version of Isthmus that is started, rather than that of the
	// checkout; see Version.
	Version *Version
	// Cluster may change the BatchCluster before it is created.
	Cluster func(*hpc.BatchCluster)
	// Progress tells people what is done and waited for; nil is silence.
	Progress io.Writer
}

// State is what an environment says of itself; it is kept in its directory.
type State struct {
	Dir string `json:"dir"`
	// Batch is one of the names above; BatchReason says why, where it was not asked for.
	Batch       string `json:"batch"`
	BatchReason string `json:"batchReason,omitempty"`
	// Shared is a directory outside Dir, since other users enter it: the batch
	// system's files and Staging, the hand-over directory. Stop removes it.
	Shared  string `json:"shared"`
	Staging string `json:"staging"`
	// Kubeconfig is the administrator's; Kubectl the path of a matching kubectl.
	Kubeconfig string `json:"kubeconfig"`
	Kubectl    string `json:"kubectl"`
	// User is the account that jobs from namespace default run as.
	User string `json:"user"`
	// Nodes are the names of the virtual nodes.
	Nodes []string `json:"nodes"`
	// Ready is set once Start has returned.
	Ready bool `json:"ready"`
}

// Environment is a running one.
type Environment struct {
	State
	progress io.Writer
	plane    *process.Group
	programs *process.Group
	system   batchSystem
	tether   *tether
	client   client.WithWatch
	config   *rest.Config
	// control is nil after Attach.
	control *controlplane.ControlPlane
	kubelet *kubelet.Kubelet
	webhook string                       // where the controllers serve it
	chart   []*unstructured.Unstructured // what was applied of it
}

// Start builds what is missing, starts everything and returns once the virtual
// nodes are Ready: about half a minute when all is built. When it fails or ctx
// ends nothing is left running; the logs stay in Config.Dir and the error names them.
func Start(ctx context.Context, config Config) (_ *Environment, err error) {
	e, err := create(config)
	if err != nil {
		return nil, err
	}
	bins, err := buildPrograms(ctx, e.progress)
	if err != nil {
		return nil, err
	}
	root, err := checkout.Root()
	if err != nil {
		return nil, err
	}
	if v := config.Version; v != nil {
		root, bins = v.Checkout, bins.but(v.Programs)
	}
	if !config.Detached {
		// From here on there is something to clean up.
		if e.tether, err = newTether(bins.isthmus, e.Dir); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("%w\nlogs are in %s", err, e.Dir)
			if stopErr := e.stop(); stopErr != nil {
				err = fmt.Errorf("%w\nwhile ending what had started: %w", err, stopErr)
			}
		}
	}()
	type step struct {
		what string
		run  func(context.Context) error
	}
	steps := []step{
		{"control plane (etcd, kube-apiserver, kube-controller-manager)", e.startPlane},
		{"Custom resource definitions", func(ctx context.Context) error { return e.ApplyDefinitions(ctx, root) }},
		{"what the chart renders (service accounts, roles, policies)", func(ctx context.Context) error { return e.ApplyChart(ctx, root) }},
		{"batch system", func(ctx context.Context) error { return e.startBatch(ctx, config) }},
		{"controllers, scheduler and virtual kubelet", func(ctx context.Context) error { return e.startPrograms(ctx, config, bins) }},
		{"virtual nodes", e.waitNodes},
		{"admission policies", e.waitPolicies},
	}
	if config.RealNode != "" {
		steps = append(steps, step{"real kubelet with containerd", func(ctx context.Context) error { return e.startKubelet(ctx, config.RealNode) }})
	}
	for _, s := range steps {
		began := time.Now()
		if err := s.run(ctx); err != nil {
			return nil, fmt.Errorf("start %s: %w", s.what, err)
		}
		fmt.Fprintf(e.progress, "  %5.1fs  %s\n", time.Since(began).Seconds(), s.what)
	}
	e.Ready = true
	return e, e.save()
}

// create makes the directories.
func create(config Config) (*Environment, error) {
	dir, err := filepath.Abs(config.Dir)
	if err != nil {
		return nil, fmt.Errorf("create environment: %w", err)
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return nil, fmt.Errorf("create environment: %s is not empty", dir)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("create environment: %w", err)
	}
	e := &Environment{State: State{Dir: dir}, progress: config.Progress}
	if e.progress == nil {
		e.progress = io.Discard
	}
	if err := e.openGroups(!config.Detached); err != nil {
		return nil, err
	}
	return e, e.save()
}

func (e *Environment) openGroups(tethered bool) (err error) {
	if e.plane, err = process.Open(planeDir(e.Dir), process.Options{Tether: tethered}); err != nil {
		return err
	}
	e.programs, err = process.Open(programsDir(e.Dir), process.Options{Tether: tethered})
	return err
}

func planeDir(dir string) string    { return filepath.Join(dir, "control-plane") }
func programsDir(dir string) string { return filepath.Join(dir, "programs") }
func stateFile(dir string) string   { return filepath.Join(dir, "environment.json") }

// save writes the state, so that Attach finds everything that is running now.
func (e *Environment) save() error {
	raw, err := json.MarshalIndent(e.State, "", "  ")
	if err != nil {
		return fmt.Errorf("save environment: %w", err)
	}
	tmp := stateFile(e.Dir) + ".new"
	if err := os.WriteFile(tmp, raw, 0o600); err != nil {
		return fmt.Errorf("save environment: %w", err)
	}
	if err := os.Rename(tmp, stateFile(e.Dir)); err != nil {
		return fmt.Errorf("save environment: %w", err)
	}
	return nil
}

// Exists reports whether dir holds an environment, running or not.
func Exists(dir string) bool {
	_, err := os.Stat(stateFile(dir))
	return err == nil
}

// Attach opens an environment that another program started. It does not look
// whether it runs; see Dead.
func Attach(dir string, progress io.Writer) (*Environment, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("attach environment: %w", err)
	}
	raw, err := os.ReadFile(stateFile(dir))
	if err != nil {
		return nil, fmt.Errorf("attach environment: %w", err)
	}
	e := &Environment{progress: progress}
	if e.progress == nil {
		e.progress = io.Discard
	}
	if err := json.Unmarshal(raw, &e.State); err != nil {
		return nil, fmt.Errorf("attach environment: %w", err)
	}
	if err := e.openGroups(false); err != nil {
		return nil, err
	}
	if e.Kubeconfig != "" {
		// It is missing when the environment never came that far, which Stop must bear.
		if err := e.connect(); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, err
		}
	}
	return e, e.attachBatch()
}

// Processes lists the processes that should run, in the order they were
// started, without those of the batch system.
func (e *Environment) Processes() []*process.Process {
	return slices.Concat(e.plane.Members(), e.programs.Members())
}

// Dead names what should run and does not.
func (e *Environment) Dead() []string {
	var dead []string
	for _, p := range e.Processes() {
		if !p.Alive() {
			dead = append(dead, p.Name)
		}
	}
	if e.system != nil {
		dead = append(dead, e.system.dead()...)
	}
	return dead
}

// Restart ends one of our programs and starts it with other arguments and with
// env in addition; both hold for later repairs, too. It does not wait until the
// program is ready.
func (e *Environment) Restart(name string, argv, env []string) error {
	p := e.programs.Find(name)
	if p == nil {
		return fmt.Errorf("restart %s: no program has that name", name)
	}
	if err := p.Stop(stopGrace); err != nil {
		return fmt.Errorf("restart %s: %w", name, err)
	}
	_, err := e.programs.Start(process.Spec{Name: name, Argv: argv, Env: env, Dir: p.Dir})
	return err
}

// ServiceAccountsNamespace is where the chart's service accounts are.
const ServiceAccountsNamespace = chartNamespace

// Repair starts what should run and does not, with the same arguments and data,
// and returns once all run and the virtual nodes are Ready.
func (e *Environment) Repair(ctx context.Context) error {
	const rounds = 3
	for round := 1; ; round++ {
		if err := e.revive(ctx); err != nil {
			return fmt.Errorf("repair environment: %w", err)
		}
		dead, err := e.settle(ctx)
		if err != nil {
			return fmt.Errorf("repair environment: %w", err)
		}
		if len(dead) == 0 {
			return nil
		}
		if round == rounds {
			return fmt.Errorf("repair environment: %v ended again; see %v", dead, e.LogFiles())
		}
	}
}

func (e *Environment) revive(ctx context.Context) error {
	if _, err := e.plane.Revive(); err != nil {
		return err
	}
	// The others end when they find no API server.
	if err := await(ctx, time.Minute, func(ctx context.Context) error {
		return e.client.Get(ctx, client.ObjectKey{Name: ClusterName}, &hpc.BatchCluster{})
	}); err != nil {
		return fmt.Errorf("wait for the API server: %w", err)
	}
	if e.system != nil {
		if err := e.system.revive(ctx); err != nil {
			return err
		}
	}
	if _, err := e.programs.Revive(); err != nil {
		return err
	}
	return e.waitNodes(ctx)
}

// settle waits a moment in which a program that cannot go on would end, and
// names those that did.
func (e *Environment) settle(ctx context.Context) ([]string, error) {
	timer := time.NewTimer(1500 * time.Millisecond)
	defer timer.Stop()
	select {
	case <-timer.C:
		return e.Dead(), nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Stop ends everything, the last thing started first, checks that no process
// is left and removes the shared directory. The directory with the logs stays.
// It may be repeated, also from another program after Attach.
func (e *Environment) Stop() error { return e.stop() }

// Remove deletes the directory of a stopped environment.
func (e *Environment) Remove() error {
	if err := os.RemoveAll(e.Dir); err != nil {
		return fmt.Errorf("remove environment: %w", err)
	}
	return nil
}

func (e *Environment) stop() error {
	var errs []error
	errs = append(errs, e.programs.StopAll(stopGrace))
	if e.system != nil {
		errs = append(errs, e.system.stop())
	}
	// Jobs of the batch system are nobody's children; they are found by the
	// shared directory their pod runner lies in. The control plane goes last, so
	// that what is swept can still be looked up in the logs.
	dirs := []string{programsDir(e.Dir)}
	if e.Shared != "" {
		dirs = append(dirs, e.Shared)
	}
	_, err := process.Sweep(stopGrace, dirs...)
	errs = append(errs, err, kubelet.Clean(kubeletDir(e.Dir)), e.plane.StopAll(3*time.Second))
	_, err = process.Sweep(0, planeDir(e.Dir))
	errs = append(errs, err)
	if e.Shared != "" {
		if err := os.RemoveAll(e.Shared); err != nil {
			errs = append(errs, fmt.Errorf("remove shared directory: %w", err))
		}
	}
	if e.tether != nil {
		e.tether.release()
		e.tether = nil
	}
	return errors.Join(errs...)
}

func (e *Environment) startPlane(ctx context.Context) error {
	audit, err := e.auditArgs()
	if err != nil {
		return err
	}
	c, err := controlplane.Start(ctx, controlplane.Config{
		Dir: planeDir(e.Dir), Processes: e.plane, Progress: e.progress, APIServerArgs: audit,
		// All hosts of the testbed are on loopback, and Kubernetes refuses such
		// addresses as endpoints: these controllers could only complain.
		ControllerManagerArgs: []string{"--controllers=-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"},
	})
	if err != nil {
		return err
	}
	e.control = c
	e.Kubeconfig, e.Kubectl = c.KubeconfigFile(), c.Kubectl()
	if err := e.connect(); err != nil {
		return err
	}
	return errors.Join(e.save(), e.issueIdentities(c))
}

// connect makes the administrator's client.
func (e *Environment) connect() error {
	config, err := clientcmd.BuildConfigFromFlags("", e.Kubeconfig)
	if err != nil {
		return fmt.Errorf("read kubeconfig: %w", err)
	}
	scheme, err := newScheme()
	if err != nil {
		return err
	}
	e.config = config
	if e.client, err = client.NewWithWatch(config, client.Options{
		Scheme: scheme,
		Log:    logr.FromSlogHandler(slog.DiscardHandler), // else it complains of the missing global one
	}); err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	return nil
}

// Left lists the processes of the environment that run: none after Stop.
func (e *Environment) Left() ([]process.Found, error) {
	dirs := []string{e.Dir, planeDir(e.Dir), programsDir(e.Dir)}
	if e.Shared != "" {
		dirs = append(dirs, e.Shared)
	}
	return process.Belonging(dirs...)
}

// Client is the administrator's, for core, Volcano and Isthmus types.
func (e *Environment) Client() client.WithWatch { return e.client }

// RESTConfig is the administrator's; the caller may change its copy.
func (e *Environment) RESTConfig() *rest.Config { return rest.CopyConfig(e.config) }

// LogFiles lists the logs of all programs, for a person who looks for a reason.
func (e *Environment) LogFiles() []string {
	var files []string
	for _, dir := range []string{planeDir(e.Dir), programsDir(e.Dir), filepath.Join(e.Dir, "slurm")} {
		found, err := filepath.Glob(filepath.Join(dir, "logs", "*.log"))
		if err == nil { // the pattern is ours and well-formed
			files = append(files, found...)
		}
	}
	return files
}
