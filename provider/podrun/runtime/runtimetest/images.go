package runtimetest

import (
	"slices"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/isthmus-hpc/isthmus/provider/podrun/image/imagetest"
	"github.com/isthmus-hpc/isthmus/provider/podrun/manifest"
)

// imageCases are about runtimes that run images.
var imageCases = map[string]func(*testing.T, Runtime){
	"entrypoint and cmd": entrypoint, "what the image says": imageSays, "the user of the image": imageUser, "the image stays as it is": unchanged,
}

// entrypoint: the table of the Kubernetes documentation.
func entrypoint(t *testing.T, rt Runtime) {
	echo := func(words ...string) []string { return append([]string{"/bin/echo"}, words...) }
	for name, tc := range map[string]struct {
		entrypoint, cmd, command, args []string
		want                           string // "" when there is nothing to run
	}{
		"image's own":           {entrypoint: echo("e"), cmd: []string{"c", "$(X)"}, want: "e c $(X)"},
		"args":                  {entrypoint: echo("e"), cmd: []string{"c"}, args: []string{"a"}, want: "e a"},
		"command":               {entrypoint: echo("e"), cmd: []string{"c"}, command: echo("k"), want: "k"},
		"command and args":      {entrypoint: echo("e"), cmd: []string{"c"}, command: echo("k"), args: []string{"a"}, want: "k a"},
		"cmd alone":             {cmd: echo("c"), want: "c"},
		"args without an entry": {cmd: echo("c"), args: echo("a"), want: "a"},
		"nothing":               {},
	} {
		t.Run(name, func(t *testing.T) {
			r, s := ended(t, rt.Node(t, v1.Config{Entrypoint: tc.entrypoint, Cmd: tc.cmd}),
				once(corev1.Container{Name: "main", Command: tc.command, Args: tc.args}))
			if tc.want == "" {
				if s.Phase != manifest.PhaseFailed || !strings.Contains(s.Message, "no command specified") {
					t.Errorf("status %+v", s)
				}
				return
			}
			code(t, s, 0)
			lines(t, r.Logs("main"), tc.want)
		})
	}
}

func imageSays(t *testing.T, rt Runtime) {
	config := v1.Config{Env: []string{"PATH=/bin", "A=image", "B=image", "CUDA_VISIBLE_DEVICES=7"}, WorkingDir: "/made/for it", User: "nobody"}
	script := `pwd; echo "$A $B $PATH $HOME ${CUDA_VISIBLE_DEVICES-none}"; cat /etc/image; test -e /bin/busybox && ls -d /lib64 2>/dev/null; echo end`
	p := once(shell("main", script))
	p.Env = map[string][]manifest.EnvVar{"main": {{Name: "B", Value: []byte("pod")}}}
	r, s := ended(t, rt.Node(t, config), p)
	code(t, s, 0)
	got := r.Logs("main")
	lines(t, got, "/made/for it", "image pod /bin /root none", "isthmus", "end")
	if strings.Contains(got, "/lib64") {
		t.Errorf("the node's files are in the container:\n%s", got)
	}
	if id := s.Containers[0].ImageID; !strings.Contains(id, "@sha256:") {
		t.Errorf("image id %q", id)
	}
	own := shell("main", "pwd")
	own.WorkingDir = "/other"
	r, _ = ended(t, rt.Node(t, config), once(own))
	lines(t, r.Logs("main"), "/other")
}

// imageUser: the image's USER gives the home directory, and nothing more.
func imageUser(t *testing.T, rt Runtime) {
	passwd := imagetest.File("etc/passwd", "root:x:0:0::/root:/bin/sh\napp:x:4242:4242::/home/app:/bin/sh\nlost:x:4243:4243::/nowhere:/bin/sh\n", 0o644)
	for named, home := range map[string]string{"app": "/home/app", "4242:4242": "/home/app", "lost": "/root", "": "/root"} {
		t.Run(named, func(t *testing.T) {
			n := rt.Node(t, v1.Config{User: named}, imagetest.Dir("home/app", 0o700), imagetest.File("home/app/rc", "shipped\n", 0o600), passwd)
			id := n.UID()
			if rt.Root {
				id = 0 // as the job's user appears there
			}
			r, s := ended(t, n, once(shell("main", `id -u; echo "$HOME"; cat /home/app/rc; echo w > /home/app/own && cat /home/app/own`)))
			code(t, s, 0)
			lines(t, r.Logs("main"), strconv.Itoa(id), home, "shipped", "w")
			told := slices.ContainsFunc(s.Events, func(e manifest.Event) bool { return e.Reason == "ImageUser" })
			if told != (named != "") {
				t.Errorf("events %+v", s.Events)
			}
		})
	}
}

// unchanged: containers of one image do not see each other's changes.
func unchanged(t *testing.T, rt Runtime) {
	one := shell("one", "echo changed > /etc/image && rm -rf /usr && mkdir /new && touch /v/done; cat /etc/image")
	two := shell("two", "while ! test -e /v/done; do sleep 0.05; done; cat /etc/image; ls -d /usr /new 2>/dev/null; echo end")
	mount := []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
	one.VolumeMounts, two.VolumeMounts = mount, mount
	p := once(one, two)
	p.Spec.Volumes, p.Volumes = []corev1.Volume{{Name: "v"}}, map[string]manifest.Volume{"v": {Kind: "emptyDir"}}
	r, s := ended(t, rt.Node(t, v1.Config{}), p)
	code(t, s, 0)
	lines(t, r.Logs("one"), "changed")
	got := r.Logs("two")
	lines(t, got, "isthmus", "/usr", "end")
	if strings.Contains(got, "/new") {
		t.Errorf("changes are seen by others:\n%s", got)
	}
}
