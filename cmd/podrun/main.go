// Command podrun runs pods inside batch jobs. It is the only program of Isthmus
// on compute nodes: static, copied there by digest, run as the job's user.
//
//	podrun launch DIR     start all members of a gang and wait (the batch script)
//	podrun pod DIR        run one member
//	podrun stream DIR     join standard streams with a pod's runner: exec, attach, forward;
//	                      with --network from another host
//	podrun agent VERB     stage, pull, refresh, collect, stop, remove, logs: the provider's hand
//
// It speaks to no network service but the pod's own probes, registries, and with
// "stream --network" the pod's runner.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/isthmus-hpc/isthmus/backends/local/supervise"
	"github.com/isthmus-hpc/isthmus/provider/podrun/agent"
	"github.com/isthmus-hpc/isthmus/provider/podrun/crilog"
	"github.com/isthmus-hpc/isthmus/provider/podrun/launch"
	"github.com/isthmus-hpc/isthmus/provider/podrun/pod"
	"github.com/isthmus-hpc/isthmus/provider/podrun/restart"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

const usage = `usage:
  podrun launch [--no-namespaces] DIR
  podrun pod [--rank N] [--host NAME] [--no-namespaces] DIR
  podrun stream --rank N [--network] DIR
  podrun agent stage|pull|refresh|collect|stop|remove|logs --root DIR [flags]
`

// mostProcessors is how many processors this program uses at once.
const mostProcessors = 4

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return agent.ExitInvalid
	}
	name, args := args[0], args[1:]
	// A runner waits most of the time. On a host of many processors Go would wake as
	// many threads for each thing that happens.
	runtime.GOMAXPROCS(min(runtime.GOMAXPROCS(0), mostProcessors))
	if name == stage.StageCommand {
		return stage.Enter()
	}
	if name == supervise.Command {
		return supervise.Main(args, os.Stderr)
	}
	// Files of a job are its user's alone, whatever the batch system's umask is.
	unix.Umask(0o077)
	switch name {
	case "launch":
		return launchMain(args)
	case "pod":
		return podMain(args)
	case "stream":
		return streamMain(args)
	case "agent":
		return agentMain(args)
	case "help", "-h", "--help":
		fmt.Print(usage)
		return 0
	}
	fmt.Fprintf(os.Stderr, "podrun: unknown command %q\n%s", name, usage)
	return agent.ExitInvalid
}

// flags makes a flag set that reports errors instead of ending the program.
func flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet("podrun "+name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

// parse reads flags and exactly want further arguments.
func parse(f *flag.FlagSet, args []string, want int) error {
	if err := f.Parse(args); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if f.NArg() != want {
		return fmt.Errorf("%s: %d arguments, want %d", f.Name(), f.NArg(), want)
	}
	return nil
}

// wrong reports bad usage.
func wrong(err error) int {
	fmt.Fprintf(os.Stderr, "podrun: %v\n", err)
	return agent.ExitInvalid
}

// terminated is closed at the first SIGTERM, SIGINT or SIGHUP; later ones change
// nothing.
func terminated() <-chan struct{} {
	in, out := make(chan os.Signal, 4), make(chan struct{})
	signal.Notify(in, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	// The reader of our messages may go before us (srun at the end of a job): that
	// must not end the pod. Ignoring the signal would be inherited by containers.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	var once sync.Once
	go func() {
		for range in {
			once.Do(func() { close(out) })
		}
	}()
	return out
}

func launchMain(args []string) int {
	f := flags("launch")
	bare := f.Bool("no-namespaces", false, "do as if the node let users make no namespaces")
	if err := parse(f, args, 1); err != nil {
		return wrong(err)
	}
	stop := terminated()
	warned := make(chan os.Signal, 1)
	signal.Notify(warned, syscall.SIGUSR2) // the batch system's word that the time limit is near
	count, err := launch.Restarts(f.Arg(0), os.Environ())
	if err != nil {
		return wrong(err)
	}
	o := launch.Options{TimeUp: warned, Dir: f.Arg(0), Restart: count, Env: os.Environ(), Terminate: stop, Stdout: os.Stdout, Stderr: os.Stderr}
	if *bare {
		o.PodArgs = []string{"--no-namespaces"}
	}
	return launch.Run(o)
}

func podMain(args []string) int {
	f := flags("pod")
	rank := f.Int("rank", -1, "rank in the gang (default: $SLURM_PROCID)")
	node := f.String("host", "", "name of this node (default: $SLURMD_NODENAME, else the host name)")
	bare := f.Bool("no-namespaces", false, "do as if the node let users make no namespaces")
	runs := f.Int("restart", -1, "the batch job's restart count (default: from the environment)")
	gpus := f.String("gpus", "", "OFFSET:COUNT[:LIST], the pod's devices among the job's on this node (default: those of the environment)")
	k := restart.Kubelet()
	f.DurationVar(&k.Base, "backoff-base", k.Base, "first wait before a container is restarted")
	f.DurationVar(&k.Max, "backoff-max", k.Max, "longest wait before a container is restarted")
	poll := f.Duration("poll", time.Second, "time between looks at the control files")
	if err := parse(f, args, 1); err != nil {
		return wrong(err)
	}
	stop := terminated()
	count, err := launch.RestartCount(os.Environ())
	if err != nil {
		return wrong(err)
	}
	if *runs >= 0 {
		count = *runs
	}
	env := os.Environ()
	if *gpus != "" {
		devices, err := launch.ParseDevices(*gpus)
		if err != nil {
			return wrong(err)
		}
		env = devices.Environment(env)
	}
	if *rank < 0 {
		if *rank, err = strconv.Atoi(os.Getenv("SLURM_PROCID")); err != nil {
			return wrong(errors.New("no --rank, and SLURM_PROCID is not a number"))
		}
	}
	if *node == "" {
		*node = os.Getenv("SLURMD_NODENAME")
	}
	if *node == "" {
		if *node, err = os.Hostname(); err != nil {
			return wrong(err)
		}
	}
	return pod.Run(pod.Options{
		Dir: f.Arg(0), Rank: *rank, Restart: count, Host: *node, Namespaces: !*bare, Runtimes: runtimes(),
		Backoff: k, LogLimits: crilog.KubeletLimits(), Poll: max(*poll, time.Millisecond),
		Env: env, Terminate: stop, Errors: os.Stderr,
	})
}
