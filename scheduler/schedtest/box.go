package schedtest

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/controllers/api/gpubox"
	"github.com/isthmus-hpc/isthmus/controllers/api/wellknown"
)

// parseBox reads KIND:COUNT,option=value and so on. Kinds are plain (no links),
// pairs (NVLinks two by two), switched (each with each) and mig, whose count is
// instead the profiles of each GPU, with + and *, and whose GPUs are given by
// gpus=N. UUIDs are NODE-0 and so on.
func parseBox(node, text string) (*gpubox.Box, error) {
	kind, rest, _ := strings.Cut(text, ":")
	count, options, _ := strings.Cut(rest, ",")
	model := gpubox.GPU{MemoryMiB: 16384, Mode: gpubox.Exclusive}
	gpus := 1
	if kind != "mig" {
		n, err := strconv.Atoi(count)
		if err != nil {
			return nil, fmt.Errorf("box %q: %w", text, err)
		}
		gpus = n
	}
	sick := -1
	for _, o := range strings.Split(options, ",") {
		key, value := option(o)
		n, err := strconv.ParseInt(value, 10, 32)
		switch key {
		case "":
			err = nil
		case "mode":
			model.Mode, err = value, nil
		case "model":
			model.Model, err = value, nil
		case "mixed":
			model.MixedTenants, err = true, nil
		case "memory":
			model.MemoryMiB = n
		case "slots":
			model.Slots = n
		case "gpus":
			gpus = int(n)
		case "sick":
			sick = int(n)
		default:
			err = fmt.Errorf("unknown option")
		}
		if err != nil {
			return nil, fmt.Errorf("box: %s: %w", o, err)
		}
	}
	b := &gpubox.Box{Version: gpubox.Version, Resource: wellknown.ResourceNvidiaGPU}
	for i := range gpus {
		g := model
		g.UUID = fmt.Sprintf("%s-%d", node, i)
		if i == sick {
			g.Unhealthy = "XID 79"
		}
		if kind == "mig" {
			g.Mode = gpubox.MIG
			for _, profile := range strings.Split(count, "+") {
				times, name, found := strings.Cut(profile, "*")
				n, err := strconv.Atoi(times)
				if !found {
					n, name, err = 1, profile, nil
				}
				if err != nil {
					return nil, fmt.Errorf("box: %s: %w", profile, err)
				}
				for range n {
					g.Instances = append(g.Instances, gpubox.Instance{UUID: fmt.Sprintf("%s.%d", g.UUID, len(g.Instances)), Resource: "nvidia.com/mig-" + name})
				}
			}
		}
		b.GPUs = append(b.GPUs, g)
	}
	if kind == "switched" {
		f := gpubox.Fabric{NVLinks: 18}
		for i := range gpus {
			f.GPUs = append(f.GPUs, i)
		}
		b.Fabrics = []gpubox.Fabric{f}
	}
	for i := 0; kind == "pairs" && i+1 < gpus; i += 2 {
		b.Links = append(b.Links, gpubox.Link{A: i, B: i + 1, NVLinks: 4})
	}
	if err := b.Check(); err != nil {
		return nil, fmt.Errorf("box %q: %w", text, err)
	}
	return b, nil
}
