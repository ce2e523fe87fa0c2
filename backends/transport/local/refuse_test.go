package local_test

import (
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refuse has the kernel refuse system calls to this program and its children from now on:
// memory for files with an error such as ENOSYS, and with "+files" after it files without
// a name as well. "" refuses nothing. Only a program of its own can call it.
func refuse(t *testing.T, what string) {
	t.Helper()
	if what == "" {
		return
	}
	name, files := strings.CutSuffix(what, "+files")
	errnos := map[string]unix.Errno{"ENOSYS": unix.ENOSYS, "EPERM": unix.EPERM, "EACCES": unix.EACCES}
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	end := func(action uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: action}
	}
	unless := func(value uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jf: skip}
	}
	const number, flags = 0, 16 + 2*8 // of struct seccomp_data: the third argument's low half
	filter := []unix.SockFilter{
		load(number), unless(unix.SYS_MEMFD_CREATE, 1), end(unix.SECCOMP_RET_ERRNO | uint32(errnos[name])),
	}
	if files {
		filter = append(filter, unless(unix.SYS_OPENAT, 4), load(flags),
			unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: unix.O_TMPFILE},
			unless(unix.O_TMPFILE, 1), end(unix.SECCOMP_RET_ERRNO|uint32(unix.EOPNOTSUPP)))
	}
	filter = append(filter, end(unix.SECCOMP_RET_ALLOW))
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // the right below is a thread's; the filter then goes to all
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program))); errno != 0 {
		t.Fatal("refuse system calls:", errno)
	}
}
