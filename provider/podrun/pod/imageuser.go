package pod

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/user"
	"strconv"
	"strings"

	"github.com/isthmus-hpc/isthmus/provider/podrun/atomicfile"
)

// maxPasswd bounds what is read of an image's accounts, in bytes.
const maxPasswd = 1 << 20

// tellUser says, once for each image, that its USER does not decide who its
// programs run as: that is the account of the job, which owns all of its files.
func (c *container) tellUser() {
	r, named := c.pod, c.image.Config.User
	id := strconv.Itoa(os.Geteuid())
	if name, _, _ := strings.Cut(named, ":"); name == "" || name == id {
		return
	}
	r.imagesMu.Lock()
	told := r.usersTold[c.image.Digest]
	if r.usersTold == nil {
		r.usersTold = map[string]bool{}
	}
	r.usersTold[c.image.Digest] = true
	r.imagesMu.Unlock()
	if told {
		return
	}
	who := id
	if u, err := user.Current(); err == nil { // a directory service may not be readable here
		who = u.Username + " (uid " + id + ")"
	}
	r.event("Normal", "ImageUser", fmt.Sprintf("image %q names the user %.64q; its programs run as %s, the account of the job, which owns all files of the image", c.spec.Image, named, who))
}

// home is the home directory in an image of the user that it names, where the
// image has one: the programs look there for what they are shipped with. Else it is
// root's. Everything there is the job's user's own.
func home(rootfs, named string) string {
	root, err := os.OpenRoot(rootfs)
	if err != nil {
		return "/"
	}
	defer root.Close()
	for _, dir := range []string{homeOf(root, named), "/root"} {
		inside := strings.Trim(dir, "/")
		if inside == "" || strings.ContainsAny(dir, "\x00\n") {
			continue
		}
		if st, err := root.Stat(inside); err == nil && st.IsDir() {
			return "/" + inside
		}
	}
	return "/"
}

// homeOf looks a user up in the image's accounts; "" is that there is no such.
func homeOf(root *os.Root, named string) string {
	name, _, _ := strings.Cut(named, ":")
	if name == "" {
		return ""
	}
	f, err := atomicfile.Open(root, "etc/passwd")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(io.LimitReader(f, maxPasswd)); lines.Scan(); {
		if e := strings.Split(lines.Text(), ":"); len(e) >= 7 && (e[0] == name || e[2] == name) {
			return e[5]
		}
	}
	return ""
}
