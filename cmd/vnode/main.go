// Command vnode is the virtual kubelet of one BatchCluster: it shows the
// partitions of a batch system as Kubernetes nodes and runs their pods as batch
// jobs.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/go-logr/logr"
	vklog "github.com/virtual-kubelet/virtual-kubelet/log"
	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1/validation"

	"github.com/isthmus-hpc/isthmus/provider"
	"github.com/isthmus-hpc/isthmus/provider/kubeletapi"
	"github.com/isthmus-hpc/isthmus/provider/servingcert"
	"github.com/isthmus-hpc/isthmus/provider/tracing"
)

type flags struct {
	kubeconfig, cluster, config, podrun string
	listen, nodeIP                      string
	certFile, keyFile, clientCA         string
	certDir, signer, auditLog, metrics  string
	pprof                               string
	stateDir, otlp                      string
	qps                                 float64
	burst                               int
	verbosity                           int
	validate                            bool
}

// lastTraces is how long the daemon may send traces before it ends.
const lastTraces = 5 * time.Second

func main() {
	var f flags
	flag.StringVar(&f.kubeconfig, "kubeconfig", "", "kubeconfig file; in-cluster configuration without it")
	flag.StringVar(&f.cluster, "cluster", "", "name of the BatchCluster object to serve")
	flag.StringVar(&f.config, "config", "", "file with a BatchCluster, instead of --cluster")
	flag.StringVar(&f.podrun, "podrun", "", "path of the podrun program (default: beside this one)")
	flag.StringVar(&f.listen, "kubelet-listen", ":10250", "host:port of the kubelet API")
	flag.StringVar(&f.nodeIP, "node-ip", "", "address at which the API server reaches the kubelet API")
	flag.StringVar(&f.certFile, "tls-cert-file", "", "serving certificate of the kubelet API; without it, certificates are asked of the cluster's signer and rotated")
	flag.StringVar(&f.keyFile, "tls-private-key-file", "", "its private key")
	flag.StringVar(&f.clientCA, "client-ca-file", "", "authority of the client certificates that are accepted (default: the one that the API server publishes)")
	flag.StringVar(&f.certDir, "cert-dir", "/var/lib/isthmus/pki", "where certificates from the cluster's signer are kept")
	flag.StringVar(&f.auditLog, "audit-log", "", "file that gets a JSON line for every submission: who in Kubernetes made which job run as whom (default: the log)")
	flag.StringVar(&f.metrics, "metrics-bind-address", "127.0.0.1:0", `HOST:PORT of /metrics; "0" turns them off there, and the kubelet API has them`)
	flag.StringVar(&f.pprof, "pprof-bind-address", off, `loopback HOST:PORT of /debug/pprof; "0" turns them off`)
	flag.StringVar(&f.otlp, "otlp-endpoint", "", "http(s)://HOST:PORT of an OpenTelemetry collector (OTLP over HTTP) that gets a trace of every gang; nothing is traced without it")
	flag.StringVar(&f.signer, "cert-signer", certificatesv1.KubeletServingSignerName, "signer of the serving certificates")
	flag.StringVar(&f.stateDir, "local-state-dir", "/var/lib/isthmus/local", "where a batch system of type local keeps its jobs")
	flag.Float64Var(&f.qps, "kube-api-qps", 200, "requests a second to the API server")
	flag.IntVar(&f.burst, "kube-api-burst", 400, "requests at once to the API server")
	flag.BoolVar(&f.validate, "validate-config", false, "check the BatchCluster, print every mistake with its field, and end: status 0 when there is none")
	flag.IntVar(&f.verbosity, "v", 0, "0 for operators, 1 for developers")
	flag.Parse()

	level := slog.LevelInfo
	if f.verbosity > 0 {
		level = slog.LevelDebug
	}
	handler := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level})
	log := logr.FromSlogHandler(handler)
	klog.SetLogger(log)

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ctx = vklog.WithLogger(ctx, nodeLog{log.WithName("node")})
	if err := run(ctx, f, log); err != nil && !errors.Is(err, context.Canceled) {
		log.Error(err, "vnode ends")
		os.Exit(1)
	}
}

func run(ctx context.Context, f flags, log logr.Logger) error {
	if (f.cluster == "") == (f.config == "") {
		return errors.New("one of --cluster and --config is required")
	}
	if f.validate {
		return validateConfig(ctx, f, os.Stdout)
	}
	if err := checkServing(f); err != nil {
		return err
	}
	podrun, err := podrunPath(f.podrun)
	if err != nil {
		return err
	}
	rc, err := restConfig(f)
	if err != nil {
		return err
	}
	kube, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return fmt.Errorf("make client: %w", err)
	}
	source, err := sourceOf(f, rc)
	if err != nil {
		return err
	}
	registry := newRegistry()
	closeMeasures, err := serveMeasures(ctx, f.metrics, f.pprof, registry, log)
	if err != nil {
		return err
	}
	defer closeMeasures()
	audit, closeAudit, err := auditTo(f.auditLog, log)
	if err != nil {
		return err
	}
	defer closeAudit()
	var tracer *tracing.Tracer
	if f.otlp != "" {
		tracer, err = tracing.New(ctx, tracing.Config{
			Endpoint: f.otlp, Service: "isthmus-vnode", Instance: f.cluster, Log: log.WithName("traces"),
		})
		if err != nil {
			return fmt.Errorf("--otlp-endpoint: %w", err)
		}
		defer func() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastTraces)
			defer cancel()
			tracer.Close(ctx)
		}()
	}
	var certs *servingcert.Manager
	if f.certFile == "" {
		certs, err = servingcert.New(servingcert.Config{
			Client: kube, SignerName: f.signer, Dir: f.certDir, Address: f.nodeIP, Log: log.WithName("certificates"),
		})
		if err != nil {
			return err
		}
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", f.listen)
	if err != nil {
		return fmt.Errorf("listen for the kubelet API: %w", err)
	}
	defer func() { _ = listener.Close() }() // the process ends with it
	return provider.Config{
		Client: kube, Source: source, Systems: systems(f.stateDir, podrun, secrets{kube}), Served: served(),
		Connect: connector{secrets: secrets{kube}, podrun: podrun, log: log}.connect, Podrun: podrun,
		Listener: listener, NodeIP: f.nodeIP, APIServer: hostPort(rc.Host), Certificates: certs, Audit: audit, Metrics: registry, Tracer: tracer,
		API: kubeletapi.Config{
			CertFile: f.certFile, KeyFile: f.keyFile, ClientCAFile: f.clientCA, Client: kube, Log: log.WithName("kubelet-api"), Metrics: metricsOf(registry),
		},
		Version: provider.Version, Log: log,
	}.Run(ctx)
}

// checkServing looks at what the kubelet API is told by flags, before anything begins.
func checkServing(f flags) error {
	if f.nodeIP == "" {
		return errors.New("--node-ip is required: the API server calls the kubelet API there")
	}
	if (f.certFile == "") != (f.keyFile == "") {
		return errors.New("--tls-cert-file and --tls-private-key-file belong together")
	}
	if f.clientCA != "" { // before anything else begins
		if _, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", f.clientCA); err != nil {
			return fmt.Errorf("--client-ca-file: %w", err)
		}
	}
	return nil
}

// hostPort takes host and port out of the API server's URL; "" when it has none.
func hostPort(server string) string {
	u, err := url.Parse(server)
	if err != nil || u.Host == "" || u.Path != "" && u.Path != "/" {
		return "" // behind a proxy's path, which no in-cluster client could be told
	}
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return net.JoinHostPort(u.Hostname(), port)
}

// sourceOf gives where the BatchCluster comes from; a file needs no rc.
func sourceOf(f flags, rc *rest.Config) (provider.Source, error) {
	if f.config != "" {
		return provider.FileSource{Path: f.config}, nil
	}
	scheme := runtime.NewScheme()
	if err := hpcv1alpha1.AddToScheme(scheme); err != nil {
		return nil, fmt.Errorf("register types: %w", err)
	}
	c, err := client.New(rc, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return provider.ObjectSource{Client: c, Name: f.cluster}, nil
}

// validateConfig checks the BatchCluster as the daemon would and says so on out.
func validateConfig(ctx context.Context, f flags, out io.Writer) error {
	var rc *rest.Config
	if f.config == "" {
		var err error
		if rc, err = restConfig(f); err != nil {
			return err
		}
	}
	source, err := sourceOf(f, rc)
	if err != nil {
		return err
	}
	cluster, err := source.Load(ctx)
	if err != nil {
		return err
	}
	validation.Default(cluster)
	errs := validation.BatchCluster(cluster, served())
	for _, e := range errs {
		fmt.Fprintln(out, e)
	}
	if len(errs) > 0 {
		return fmt.Errorf("BatchCluster %s: %d mistakes", cluster.Name, len(errs))
	}
	fmt.Fprintf(out, "BatchCluster %s is valid\n", cluster.Name)
	return nil
}

func restConfig(f flags) (*rest.Config, error) {
	var rc *rest.Config
	var err error
	if f.kubeconfig != "" {
		rc, err = clientcmd.BuildConfigFromFlags("", f.kubeconfig)
	} else {
		rc, err = rest.InClusterConfig()
	}
	if err != nil {
		return nil, fmt.Errorf("find the API server: %w", err)
	}
	rc.QPS, rc.Burst = float32(f.qps), f.burst
	rc.UserAgent = "isthmus-vnode"
	return rc, nil
}

func podrunPath(given string) (string, error) {
	if given == "" {
		self, err := os.Executable()
		if err != nil {
			return "", fmt.Errorf("find podrun: %w", err)
		}
		given = filepath.Join(filepath.Dir(self), "podrun")
	}
	abs, err := filepath.Abs(given)
	if err != nil {
		return "", fmt.Errorf("find podrun: %w", err)
	}
	if st, err := os.Stat(abs); err != nil || st.IsDir() || st.Mode()&0o111 == 0 {
		return "", fmt.Errorf("podrun: %s is not an executable file; give its path with --podrun", abs)
	}
	return abs, nil
}
