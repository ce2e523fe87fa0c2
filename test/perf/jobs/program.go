package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/isthmus-hpc/isthmus/test/testbed/checkout"
)

// program is the shipped one, which runs.
type program struct {
	cmd     *exec.Cmd
	dir     string
	metrics string
	ended   chan error
}

// startProgram builds the controllers and starts them. What they log is shown when
// they end with an error.
func startProgram(ctx context.Context, kubeconfig string, qps float64) (*program, error) {
	root, err := checkout.Root()
	if err != nil {
		return nil, fmt.Errorf("find checkout: %w", err)
	}
	dir, err := os.MkdirTemp("", "isthmus-perf-")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	p := &program{dir: dir, ended: make(chan error, 1)}
	exe := filepath.Join(dir, "controllers")
	if err := (checkout.GoBuild{Module: root, Package: "./cmd/controllers", Output: exe}).Run(ctx, os.Stderr, "controllers"); err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	address, err := free(ctx)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	p.metrics = "http://" + address + "/metrics"
	var log bytes.Buffer
	//nolint:gosec // the program that was just built
	p.cmd = exec.Command(exe, "--kubeconfig="+kubeconfig, "--leader-elect=false", "--metrics-bind-address="+address,
		fmt.Sprintf("--kube-api-qps=%g", qps), fmt.Sprintf("--kube-api-burst=%d", int(2*qps)))
	p.cmd.Stderr = &log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start controllers: %w", err), os.RemoveAll(dir))
	}
	go func() {
		err := p.cmd.Wait()
		if err != nil {
			err = fmt.Errorf("controllers: %w\n%s", err, log.Bytes())
		}
		p.ended <- err
	}()
	return p, p.ready(ctx)
}

// ready waits until the program tells its metrics.
func (p *program) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := p.look(ctx)
		if err == nil {
			return nil
		}
		select {
		case end := <-p.ended:
			p.ended <- end
			return fmt.Errorf("the controllers have ended: %w", errors.Join(end, err))
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}

// stop ends the program as a cluster does.
func (p *program) stop() error {
	defer func() { _ = os.RemoveAll(p.dir) }()
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return errors.Join(err, <-p.ended)
	}
	return <-p.ended
}

func free(ctx context.Context) (string, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String(), nil
}

// state is what the program tells of itself.
type state struct {
	goroutines, heap, resident float64
	processor                  float64 // seconds
	writes                     float64 // requests that write, events among them
}

func (p *program) look(ctx context.Context) (state, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, p.metrics, nil)
	if err != nil {
		return state{}, err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return state{}, fmt.Errorf("read the controllers' metrics: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(res.Body)
	if err != nil {
		return state{}, fmt.Errorf("read the controllers' metrics: %w", err)
	}
	one := func(name string) float64 {
		for _, m := range families[name].GetMetric() {
			return m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
		return 0
	}
	s := state{goroutines: one("go_goroutines"), heap: one("go_memstats_heap_inuse_bytes"),
		resident: one("process_resident_memory_bytes"), processor: one("process_cpu_seconds_total")}
	for _, m := range families["rest_client_requests_total"].GetMetric() {
		if writes(m) {
			s.writes += m.GetCounter().GetValue()
		}
	}
	return s, nil
}

func writes(m *dto.Metric) bool {
	for _, l := range m.GetLabel() {
		if l.GetName() == "method" {
			return l.GetValue() != http.MethodGet
		}
	}
	return false
}
