package stream

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// Address is the abstract socket of the runner of one pod on this host, from
// the gang's open directory: by what it is rather than by its name, since a
// shared filesystem may have several.
func Address(gang *os.Root, attempt string, rank int) (string, error) {
	f, err := gang.Open(".")
	if err != nil {
		return "", fmt.Errorf("open gang directory: %w", err)
	}
	defer func() { _ = f.Close() }() // only looked at
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", &fs.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	sum := sha256.Sum256([]byte(attempt + "\x00" + strconv.FormatUint(st.Dev, 10) + "\x00" + strconv.FormatUint(st.Ino, 10) + "\x00" + strconv.Itoa(rank)))
	return "@isthmus-" + hex.EncodeToString(sum[:]), nil
}

// Own reports whether the other end of c is a process of this user, as the
// kernel saw it connect. Anyone on the host can reach an abstract socket.
func Own(c *net.UnixConn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("look at the peer: %w", err)
	}
	var cred *unix.Ucred
	var cerr error
	if err := raw.Control(func(fd uintptr) {
		cred, cerr = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); err != nil {
		return fmt.Errorf("look at the peer: %w", err)
	}
	if cerr != nil {
		return fmt.Errorf("look at the peer: %w", cerr)
	}
	if int(cred.Uid) != os.Geteuid() {
		return fmt.Errorf("the peer is user %d, not %d", cred.Uid, os.Geteuid())
	}
	return nil
}
