package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/peers"
	"github.com/isthmus-hpc/isthmus/provider/podrun/runtime/stage"
)

// prepare makes what a run needs.
func (c *container) prepare() (stage.Sandbox, string, error) {
	p := c.pod
	token := c.id()
	env, err := newEnvironment(p.opts.Env, c.env(), p.volumes, p.at, p.hostname(), token, c.base())
	if err != nil {
		return stage.Sandbox{}, "", err
	}
	sb := stage.Sandbox{Env: env.vars, MountDir: p.scratch.mountDir()}
	if sb.Argv, err = arguments(c.spec, c.image.Config, env); err != nil {
		return stage.Sandbox{}, "", err
	}
	for i, word := range sb.Argv {
		sb.Argv[i] = []byte(peers.Word(string(word), p.at.names, p.at.resolves))
	}
	namespaces, _ := p.driver.Namespaces()
	namespaces = namespaces || p.runtime.Image()
	if sb.Mounts, err = mounts(c.spec, c.at, p.volumes, env, namespaces); err != nil {
		return stage.Sandbox{}, "", err
	}
	message, err := p.scratch.terminationFile(c.spec.Name, c.restarts)
	if err != nil {
		return stage.Sandbox{}, "", err
	}
	if namespaces {
		sb.Mounts = append(sb.Mounts,
			stage.Mount{Source: p.hostsFile, Target: "/etc/hosts", ReadOnly: true, Field: "spec.hostAliases"},
			stage.Mount{Source: message, Target: first(c.spec.TerminationMessagePath, corev1.TerminationMessagePathDefault), Optional: true})
	} else {
		sb.Env = env.with("ISTHMUS_HOSTS_FILE", p.hostsFile)
		sb.Env = append(sb.Env, []byte("ISTHMUS_TERMINATION_LOG="+message))
	}
	switch {
	case c.spec.WorkingDir != "":
		sb.Dirs = []string{c.spec.WorkingDir}
	case p.runtime.Image():
		sb.Dirs = []string{first(c.image.Config.WorkingDir, "/")}
	case env.home != "":
		sb.Dirs = []string{env.home, p.scratch.workDir(), "/"} // a volume may hide them
	default:
		sb.Dirs = []string{p.scratch.workDir(), "/"}
	}
	if s := c.spec.SecurityContext; s != nil && s.AllowPrivilegeEscalation != nil {
		sb.NoNewPrivileges = !*s.AllowPrivilegeEscalation
	}
	if s := c.spec.SecurityContext; s != nil && s.ReadOnlyRootFilesystem != nil {
		sb.ReadOnlyRoot = *s.ReadOnlyRootFilesystem
	}
	return sb, message, nil
}

// env is the container's declared environment.
func (c *container) env() []manifest.EnvVar {
	if c.added {
		return c.declared
	}
	return c.pod.spec.Env[c.spec.Name]
}

// base is what the container's environment starts from: its image's, or nil
// for the node's.
func (c *container) base() []string {
	if !c.pod.runtime.Image() {
		return nil
	}
	return append([]string{"HOME=" + home(c.image.Rootfs, c.image.Config.User)}, c.image.Config.Env...)
}

func (c *container) id() string {
	return fmt.Sprintf("%s://%s/%s/%d", c.pod.spec.Runtime, c.pod.spec.Pod.UID, c.spec.Name, c.restarts)
}
