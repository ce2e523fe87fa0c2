package kubelet

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
)

// place numbers a node, so that several live on one machine: its interface, its
// addresses (of the block for measurements between networks, RFC 2544, which
// never is on the Internet) and its control groups.
type place int

func (p place) link() string    { return fmt.Sprintf("isthmus%d", int(p)) }
func (p place) pods() string    { return fmt.Sprintf("198.18.%d.0/24", int(p)) }
func (p place) near() string    { return fmt.Sprintf("198.19.%d.1", int(p)) } // the machine's end
func (p place) far() string     { return fmt.Sprintf("198.19.%d.2", int(p)) } // containerd's end
func (p place) cgroups() string { return fmt.Sprintf("isthmus%d", int(p)) }

// connect makes the network between the machine and the pods.
func (k *Kubelet) connect(ctx context.Context) error {
	const tries = 20
	for try := 1; ; try++ {
		k.place = place(1 + rand.IntN(250))
		err := k.run(ctx, "ip", "link", "add", k.place.link(), "type", "veth", "peer", "name", "uplink",
			"netns", fmt.Sprint(k.holder.PID))
		if err == nil {
			break
		}
		if try == tries || !strings.Contains(err.Error(), "File exists") {
			return err
		}
	}
	if err := writeFile(k.path("place"), k.place.cgroups()); err != nil {
		return err
	}
	for _, args := range [][]string{
		{"address", "add", k.place.near() + "/30", "dev", k.place.link()},
		{"link", "set", k.place.link(), "up"},
	} {
		if err := k.run(ctx, "ip", args...); err != nil {
			return err
		}
	}
	for _, args := range [][]string{
		{k.paths["ip"], "link", "set", "lo", "up"},
		{k.paths["ip"], "address", "add", k.place.far() + "/30", "dev", "uplink"},
		{k.paths["ip"], "link", "set", "uplink", "up"},
		{k.paths["ip"], "route", "add", "default", "via", k.place.near()},
		// The setting is the namespace's, not the machine's.
		{"sh", "-c", "echo 1 >/proc/sys/net/ipv4/ip_forward"},
	} {
		if err := k.run(ctx, "nsenter", append(k.inside("--net"), args...)...); err != nil {
			return err
		}
	}
	return k.run(ctx, "ip", "route", "add", k.place.pods(), "via", k.place.far())
}

// controllers are where the machine's control groups are mounted.
func controllers() ([]string, error) {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
		return []string{root}, nil // version 2
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return nil, fmt.Errorf("find control groups: %w", err)
	}
	var dirs []string
	for _, e := range entries {
		if e.IsDir() { // links name controllers that are mounted together
			dirs = append(dirs, filepath.Join(root, e.Name()))
		}
	}
	return dirs, nil
}

// makeGroups makes the groups that all of the node's pods are below.
func (k *Kubelet) makeGroups(context.Context) error {
	dirs, err := controllers()
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		group := filepath.Join(dir, k.place.cgroups())
		if err := os.MkdirAll(group, 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
		if filepath.Base(dir) != "cpuset" {
			continue
		}
		for _, name := range []string{"cpuset.cpus", "cpuset.mems"} { // else no process may enter
			raw, err := os.ReadFile(filepath.Join(dir, name))
			if err == nil {
				err = os.WriteFile(filepath.Join(group, name), raw, 0o644)
			}
			if err != nil {
				return fmt.Errorf("make control group: %w", err)
			}
		}
	}
	return nil
}

// Clean removes the control groups that the node in dir left. Its processes
// must have ended.
func Clean(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "place"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("clean up node: %w", err)
	}
	dirs, err := controllers()
	if err != nil {
		return err
	}
	var errs []error
	for _, controller := range dirs {
		errs = append(errs, removeGroups(filepath.Join(controller, string(raw))))
	}
	return errors.Join(errs...)
}

// removeGroups removes a control group and those below, the lowest first.
func removeGroups(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove control group: %w", err)
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeGroups(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove control group: %w", err)
	}
	return nil
}
