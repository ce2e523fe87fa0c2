package slurm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/test/testbed/debian"
)

// networkOf names a host's network namespace.
func (c *Cluster) networkOf(host string) string {
	return "isthmus-" + strconv.Itoa(c.record.Place.Port) + "-" + host
}

// bridge names the bridge that joins the hosts; the kernel takes 15 characters.
func (c *Cluster) bridge() string { return "isth" + strconv.Itoa(c.record.Place.Port) }

// makeNetworks makes a namespace for each host and joins them.
func (c *Cluster) makeNetworks(ctx context.Context) error {
	at := c.record.Place
	steps := [][]string{
		{"link", "add", c.bridge(), "type", "bridge"},
		{"addr", "add", at.controller() + "/24", "dev", c.bridge()},
		{"link", "set", c.bridge(), "up"},
	}
	for i, h := range c.record.Hosts {
		ns, outer := c.networkOf(h.Name), fmt.Sprintf("is%dh%d", at.Port, i)
		steps = append(steps,
			[]string{"netns", "add", ns},
			[]string{"link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", ns},
			[]string{"link", "set", outer, "master", c.bridge(), "up"},
			[]string{"-n", ns, "link", "set", "lo", "up"},
			[]string{"-n", ns, "addr", "add", h.Address + "/24", "dev", "eth0"},
			[]string{"-n", ns, "link", "set", "eth0", "up"},
		)
	}
	for _, s := range steps {
		if err := runIP(ctx, s...); err != nil {
			return fmt.Errorf("make the hosts' network: %w", err)
		}
	}
	return nil
}

// removeNetworks removes what makeNetworks made, as far as it got.
func (c *Cluster) removeNetworks(ctx context.Context) error {
	var errs []error
	gone := func(err error) {
		if err != nil && !strings.Contains(err.Error(), "No such file") && !strings.Contains(err.Error(), "Cannot find device") {
			errs = append(errs, fmt.Errorf("remove the hosts' network: %w", err))
		}
	}
	for _, h := range c.record.Hosts {
		gone(runIP(ctx, "netns", "del", c.networkOf(h.Name))) // its end of the wire takes the other with it
	}
	gone(runIP(ctx, "link", "del", c.bridge()))
	return errors.Join(errs...)
}

func runIP(ctx context.Context, args ...string) error {
	path, err := debian.Find("ip")
	if err != nil {
		return err
	}
	var said bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(said.String()))
	}
	return nil
}
