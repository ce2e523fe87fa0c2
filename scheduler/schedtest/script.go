package schedtest

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	kresource "k8s.io/apimachinery/pkg/api/resource"

	"github.com/isthmus-hpc/isthmus/controllers/api/hostshape"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
	"github.com/isthmus-hpc/isthmus/scheduler"
	"github.com/isthmus-hpc/isthmus/scheduler/resource"
	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// Run runs a script and returns it with the outputs that the code gave. A script
// is a list of blocks; a block is lines of commands, a line "----" and the
// output, ended by an empty line. Lines that start with # are comments.
//
//	node NAME cpu=8 memory=16Gi gpu=8 label.KEY=V image.NAME=MEBIBYTES taint=KEY:EFFECT notready cordoned
//	virtual NAME shape=COUNT*cpu=8,memory=16Gi,gpu=8,with=NODE ... counted=ATTEMPT exclusive label.KEY=V taint=KEY:EFFECT
//	    box=pairs:4 box=switched:8,mode=mps,slots=4,memory=16384 box=mig:2*1g.10gb+3g.40gb (real nodes)
//	queue NAME weight=2 priority=1 state=Closed parent=P cap.gpu=8 deserved.gpu=4 guarantee.gpu=2 fifo keep
//	  groups=A,B prefer=A forbid=C avoid=D hierarchy=root/x weights=1/2
//	group NAME min=4 queue=Q priority=5 phase=Pending task.T=2 minres.gpu=8 sla=1h loose acts
//	    topology=hard:1|hard:TIERNAME|soft:1|key:LABEL sub=POLICY,size=2,min=2,topology=hard:1
//	pods GROUP TASK COUNT cpu=1 gpu=2 select.KEY=V tolerate=KEY port=80 gated queuegated part=POLICY/PART priority=1
//	    lab.KEY=V near=KEY:L=V apart=KEY:L=V likes=KEY:L=V dislikes=KEY:L=V spread=KEY:L=V:SKEW softspread=KEY:L=V:SKEW
//	    image=NAME gpulink=required gputype=a100 gpumode=mps tenant=NAMESPACE
//	plain NAME queue=Q cpu=1 gpu=1
//	hypernode NAME tier=1 name=rack nodes=n1,n2 pattern=REGEX label.KEY=V hyper=h1,h2
//	levels KEY ...
//	cycle | later 15s | drop NODE | without ACTION | without PLUGIN.SWITCH
//	budget NAME COUNT
//	reserve NAME from=1h for=2h nodes=n1,n2 label.KEY=V count=2 each.gpu=4 queues=Q namespaces=N batch.CLUSTER=made
//	settle 2m | finish GROUP | minimum GROUP NUMBER | parts GROUP POLICY,size=2,min=2 | assume PODPREFIX NODE
//	run|succeed|fail|displace|terminate|submit|delete|lose|ungate|restart PODPREFIX
//
// Pods may be protected=WHY, have cooldown=10m and be covered by budget=NAME. A
// group may have an estimate=10m and be patient. "settle" lets time pass: what is
// bound runs, what terminates is replaced. "finish" ends a group that has started. An evicted pod terminates until
// it is deleted, or restarted: then a new one of its name waits. "displace" is a failure
// since the place was taken from the pod. "lose" makes pods unbound again, as if their bindings had never been sent.
// "without" takes an action away, or turns the switch of a plugin off, from then on.
// "assume" is a binding that was sent and that nobody has confirmed; "run" confirms it, and "lose" is its failure.
// A real node offers 110 pods. gpu stands for nvidia.com/gpu.
func Run(script string) (string, error) {
	w := NewWorld()
	var out strings.Builder
	var printed strings.Builder
	skipping := false
	for i, raw := range strings.Split(script, "\n") {
		line := strings.TrimSpace(raw)
		if skipping {
			if line != "" {
				continue
			}
			skipping = false
		}
		if line == "----" {
			out.WriteString("----\n" + printed.String())
			printed.Reset()
			skipping = true
			continue
		}
		out.WriteString(line + "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		text, err := w.command(strings.Fields(line))
		if err != nil {
			return "", fmt.Errorf("line %d: %w", i+1, err)
		}
		printed.WriteString(text)
	}
	if printed.Len() > 0 {
		return "", fmt.Errorf("output without a line ---- to put it after")
	}
	return strings.TrimRight(out.String(), "\n") + "\n", nil
}

// Do carries out one line of a script and returns what it prints.
func (w *World) Do(line string) (string, error) { return w.command(strings.Fields(line)) }

func (w *World) command(words []string) (string, error) {
	if len(words) < 2 && words[0] != "cycle" {
		return "", fmt.Errorf("%s: a name is missing", words[0])
	}
	switch words[0] {
	case "cycle":
		pipe := Pipeline()
		if len(w.off) > 0 {
			pipe = PipelineWithout(w.off...)
		}
		p := scheduler.Cycle(pipe, w.Snapshot(), w.Now)
		w.Apply(p)
		if text := p.String(); text != "" {
			return text, nil
		}
		return "nothing\n", nil
	case "without":
		w.off = append(w.off, words[1])
		return "", nil
	case "later":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			return "", fmt.Errorf("later: %w", err)
		}
		w.Now = w.Now.Add(d)
		return "", nil
	case "node", "virtual":
		return "", w.nodeCommand(words[0] == "virtual", words[1], words[2:])
	case "drop":
		for i, n := range w.Nodes {
			if n.Name == words[1] {
				w.Nodes = append(w.Nodes[:i], w.Nodes[i+1:]...)
				return "", nil
			}
		}
		return "", fmt.Errorf("no node %s", words[1])
	case "hypernode":
		return "", w.hyperNodeCommand(words[1], words[2:])
	case "levels":
		w.Levels = words[1:]
		return "", nil
	case "settle":
		d, err := time.ParseDuration(words[1])
		if err != nil {
			return "", fmt.Errorf("settle: %w", err)
		}
		w.Settle(d)
		return "", nil
	case "finish":
		w.Finish(words[1])
		return "", nil
	case "minimum":
		g := w.Gang(words[1])
		n, err := strconv.ParseInt(words[len(words)-1], 10, 64)
		if g == nil || len(words) != 3 || err != nil {
			return "", fmt.Errorf("minimum must be GROUP NUMBER of a group that exists, is %q", words[1:])
		}
		g.MinMember = n
		return "", nil
	case "assume":
		return "", w.assume(words[1], words[len(words)-1])
	case "parts":
		return "", w.partsCommand(words[1], words[2:])
	case "queue":
		return "", w.queueCommand(words[1], words[2:])
	case "reserve":
		return "", w.reserveCommand(words[1], words[2:])
	case "budget":
		return "", w.budgetCommand(words[1], words[2:])
	case "group", "plain":
		return "", w.groupCommand(words[0] == "plain", words[1], words[2:])
	case "pods":
		if len(words) < 4 {
			return "", fmt.Errorf("pods: want GROUP TASK COUNT")
		}
		return "", w.podsCommand(words[1], words[2], words[3], words[4:])
	}
	return "", w.podCommand(words[0], words[1])
}

func (w *World) podCommand(verb, prefix string) error {
	pods := w.Pods(prefix)
	if len(pods) == 0 {
		return fmt.Errorf("%s: no pod is named %s", verb, prefix)
	}
	switch verb {
	case "restart", "fail":
		w.hurt(pods)
	}
	switch verb {
	case "delete":
		w.Delete(prefix)
		return nil
	case "restart":
		w.Restart(prefix)
		return nil
	}
	for _, p := range pods {
		switch verb {
		case "run":
			p.Phase, p.StartedAt, p.Assumed = snapshot.PodRunning, w.Now.UnixNano(), false
		case "succeed":
			p.Phase = snapshot.PodSucceeded
		case "fail":
			p.Phase = snapshot.PodFailed
		case "displace":
			p.Phase, p.Lost = snapshot.PodFailed, true
		case "terminate":
			p.Terminating = true
		case "submit":
			p.Submitted = true
		case "ungate":
			p.Gated = false
		case "lose":
			p.Node, p.Attempt, p.Size, p.Rank, p.Devices, p.Assumed = "", "", 0, 0, nil, false
		default:
			return fmt.Errorf("unknown command %q", verb)
		}
	}
	return nil
}

// option splits KEY=VALUE.
func option(word string) (key, value string) {
	key, value, _ = strings.Cut(word, "=")
	return key, value
}

func quantity(name, value string) (resource.Quantity, error) {
	if name == "gpu" {
		name = wellknown.ResourceNvidiaGPU
	}
	q, err := kresource.ParseQuantity(value)
	if err != nil {
		return resource.Quantity{}, fmt.Errorf("%s=%s: %w", name, value, err)
	}
	return resource.Quantity{Name: name, Amount: resource.Offered(name, q)}, nil
}

func (w *World) nodeCommand(virtual bool, name string, options []string) error {
	n := snapshot.NodeSpec{Labels: map[string]string{}}
	var shapes hostshape.Shapes
	qs := []resource.Quantity{}
	ready := true
	for _, o := range options {
		key, value := option(o)
		label, isLabel := strings.CutPrefix(key, "label.")
		image, isImage := strings.CutPrefix(key, "image.")
		switch {
		case isLabel:
			n.Labels[label] = value
		case isImage:
			size, err := strconv.ParseInt(value, 10, 32)
			if err != nil {
				return fmt.Errorf("%s: %w", o, err)
			}
			n.Images = append(n.Images, snapshot.Image{Name: snapshot.ImageName(image), Size: size << 20})
		case key == "taint":
			k, effect, _ := strings.Cut(value, ":")
			n.Taints = append(n.Taints, corev1.Taint{Key: k, Effect: corev1.TaintEffect(effect)})
		case key == "box":
			box, err := parseBox(name, value)
			if err != nil {
				return err
			}
			n.GPUs = box
		case key == "wait":
			v, err := strconv.ParseInt(value, 10, 64)
			if err != nil {
				return fmt.Errorf("node: %s: %w", o, err)
			}
			n.Wait = v
		case key == "notready":
			ready = false
		case key == "cordoned":
			n.Unschedulable = true
		case key == "exclusive":
			shapes.ExclusiveComponents = true
		case key == "counted":
			shapes.Counted = append(shapes.Counted, hostshape.Tag(value))
		case key == "shape":
			sh, err := parseShape(value)
			if err != nil {
				return err
			}
			shapes.Shapes = append(shapes.Shapes, sh)
		default:
			q, err := quantity(key, value)
			if err != nil {
				return err
			}
			qs = append(qs, q)
		}
	}
	base := Real(name, append(qs, resource.Quantity{Name: "pods", Amount: 110})...)
	if virtual {
		base = Virtual(name, shapes)
		base.Taints = append(base.Taints, corev1.Taint{Key: wellknown.TaintVirtualNode, Value: "c", Effect: corev1.TaintEffectNoSchedule})
		if len(qs) > 0 { // an explicit sum below that of the shapes
			base.Allocatable = resource.MakeList(append(qs, resource.Quantity{Name: "pods", Amount: 100000})...)
		}
	}
	base.Labels, base.Ready, base.Unschedulable, base.Wait, base.GPUs = n.Labels, ready, n.Unschedulable, n.Wait, n.GPUs
	base.Images = n.Images
	base.Taints = append(base.Taints, n.Taints...)
	w.SetNode(base)
	return nil
}

// parseShape reads COUNT*name=amount,name=amount.
func parseShape(text string) (hostshape.Shape, error) {
	count, rest, ok := strings.Cut(text, "*")
	n, err := strconv.ParseInt(count, 10, 64)
	if !ok || err != nil {
		return hostshape.Shape{}, fmt.Errorf("shape %q: want COUNT*name=amount and so on, with commas", text)
	}
	sh := hostshape.Shape{Count: n, Resources: map[string]int64{}}
	for _, part := range strings.Split(rest, ",") {
		key, value := option(part)
		if key == "with" { // another node that has these hosts too
			sh.With = append(sh.With, value)
			continue
		}
		q, err := quantity(key, value)
		if err != nil {
			return hostshape.Shape{}, err
		}
		sh.Resources[q.Name] = q.Amount
	}
	return sh, nil
}

func (w *World) budgetCommand(name string, options []string) error {
	if len(options) != 1 {
		return fmt.Errorf("budget: want NAME COUNT")
	}
	n, err := strconv.ParseInt(options[0], 10, 32)
	if err != nil {
		return fmt.Errorf("budget: %w", err)
	}
	w.Budgets = slices.DeleteFunc(w.Budgets, func(b snapshot.Budget) bool { return b.Name == name })
	w.Budgets = append(w.Budgets, snapshot.Budget{Name: name, Allowed: n})
	return nil
}

func (w *World) groupCommand(plain bool, name string, options []string) error {
	g := w.AddGang(name, 1)
	var needs []string
	if plain {
		g.Key, g.Plain, g.Status = "pod/default/"+name, true, snapshot.GroupStatus{}
	}
	for _, o := range options {
		key, value := option(o)
		n, err := strconv.ParseInt(value, 10, 32)
		task, isTask := strings.CutPrefix(key, "task.")
		res, isResource := strings.CutPrefix(key, "minres.")
		switch {
		case key == "queue":
			g.Queue, err = value, nil
		case key == "phase":
			g.Status.Phase, err = value, nil
		case key == "hold":
			g.Hold, err = value, nil
		case key == "estimate":
			var d time.Duration
			d, err = time.ParseDuration(value)
			g.Estimate, g.EstimateFrom = int64(d), snapshot.EstimateDeclared
		case key == "patient":
			g.Patient, err = true, nil
		case key == "acts":
			g.ActsOnEviction, err = true, nil
		case key == "loose":
			g.Loose, err = true, nil
		case key == "absent":
			g.Absent, err = true, nil
		case key == "native":
			g.Native, g.Status, err = true, snapshot.GroupStatus{}, nil
		case key == "young":
			g.CreatedAt, err = w.Now.UnixNano(), nil
		case key == "topology":
			g.Topology, err = parseTopology(value)
		case key == "sub":
			var sub snapshot.SubGroup
			_, text, _ := strings.Cut(o, "=")
			sub, err = parseSubGroup(text)
			g.SubGroups = append(g.SubGroups, sub)
		case key == "sla":
			var d time.Duration
			d, err = time.ParseDuration(value)
			g.WaitAtMost = int64(d)
		case key == "min":
			g.MinMember = n
		case key == "priority":
			g.Priority = int32(n)
		case isTask:
			g.MinTask = append(g.MinTask, snapshot.TaskMinimum{Task: task, Min: n})
		case isResource:
			var q resource.Quantity
			q, err = quantity(res, value)
			g.MinResources = resource.MakeList(append(g.MinResources, q)...)
		case plain:
			needs, err = append(needs, o), nil
		default:
			return fmt.Errorf("group: unknown option %q", o)
		}
		if err != nil {
			return fmt.Errorf("group: %s: %w", o, err)
		}
	}
	if plain {
		return w.podsCommand(name, "", "1", needs)
	}
	return nil
}

func (w *World) podsCommand(group, task, count string, options []string) error {
	g := w.Gang(group)
	n, err := strconv.Atoi(count)
	if g == nil || err != nil {
		return fmt.Errorf("pods: no group %q or bad count %q", group, count)
	}
	c := snapshot.ClassSpec{}
	for _, q := range w.Queues {
		if q.Name == g.Queue {
			c.Groups = q.Groups
		}
	}
	gated := false
	var priority int64
	var policy, part string
	var p snapshot.Pod
	for _, o := range options {
		key, value := option(o)
		label, isSelector := strings.CutPrefix(key, "select.")
		switch {
		case isSelector:
			if c.NodeSelector == nil {
				c.NodeSelector = map[string]string{}
			}
			c.NodeSelector[label] = value
		case key == "tolerate":
			c.Tolerations = append(c.Tolerations, corev1.Toleration{Key: value, Operator: corev1.TolerationOpExists})
		case key == "port":
			port, err := strconv.ParseInt(value, 10, 32)
			if err != nil {
				return fmt.Errorf("pods: %s: %w", o, err)
			}
			c.HostPorts = append(c.HostPorts, snapshot.HostPort{Protocol: "TCP", Port: int32(port)})
		case key == "daemonset":
			c.DaemonSet = true
		case key == "image":
			c.Images = append(c.Images, snapshot.ImageName(value))
		case key == "unsupported":
			c.Unsupported = value
		case strings.HasPrefix(key, "lab."):
			if c.Labels == nil {
				c.Labels = map[string]string{}
			}
			c.Namespace, c.Labels[strings.TrimPrefix(key, "lab.")] = "default", value
		case key == "near", key == "apart", key == "likes", key == "dislikes", key == "spread", key == "softspread":
			if err := addPeer(&c, key, strings.TrimPrefix(o, key+"=")); err != nil {
				return err
			}
		case key == "gpulink", key == "gputype", key == "gpumode", key == "tenant":
			if c.GPU == nil {
				c.GPU = &snapshot.GPUSpec{}
			}
			switch key {
			case "gpulink":
				c.GPU.Joined = value == "required"
			case "gputype":
				c.GPU.Models = []string{value}
			case "gpumode":
				c.GPU.Modes = strings.Split(value, ",")
			case "tenant":
				c.GPU.Tenant = value
			}
		case key == "gated":
			gated = true
		case key == "queuegated":
			gated, p.Gate = true, snapshot.GateClosed
		case key == "part":
			policy, part, _ = strings.Cut(value, "/")
		case key == "priority":
			if priority, err = strconv.ParseInt(value, 10, 32); err != nil {
				return fmt.Errorf("pods: %s: %w", o, err)
			}
		case key == "protected":
			p.Protected = value
		case key == "revocable":
			c.Revocable = strings.Split(value, ",")
		case key == "movable":
			p.Movable = true
		case key == "budget":
			p.Budgets = append(p.Budgets, value)
		case key == "cooldown":
			d, err := time.ParseDuration(value)
			if err != nil {
				return fmt.Errorf("pods: %s: %w", o, err)
			}
			p.Cooldown = int64(d)
		default:
			q, err := quantity(key, value)
			if err != nil {
				return fmt.Errorf("pods: %w", err)
			}
			c.Requests = append(c.Requests, q)
		}
	}
	for _, made := range g.AddPods(task, n, c) {
		made.Priority, made.Policy, made.SubGroup = int32(priority), policy, part
		made.Gated, made.Gate, made.Protected, made.Budgets, made.Cooldown, made.Movable = gated, p.Gate, p.Protected, p.Budgets, p.Cooldown, p.Movable
	}
	return nil
}
