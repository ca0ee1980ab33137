package zfs

import "syscall"

// widen lets a pipe hold more, as far as the system allows; see F_SETPIPE_SZ in
// fcntl(2).
func (p pipe) widen() {
	if p.w == nil {
		return
	}
	const setPipeSize = 1024 + 7
	conn, err := p.w.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _, _, _ = syscall.Syscall(syscall.SYS_FCNTL, fd, setPipeSize, pipeSize) })
}
