"""System calls on a run's folder that kill or fail, one by one: a library loaded before the C library."""

import ctypes
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Fault -> how the shim is armed; above 0 it is the error number that the call fails with.
FAULTS = {
    "kill before": -1,
    "kill after": -2,
    "kill torn": -3,
    "short": -4,
    "EIO": errno.EIO,
    "ENOSPC": errno.ENOSPC,
    "EDQUOT": errno.EDQUOT,
}

# The N-th call that changes something below the run's folder kills or fails, or that one and all after it.
SHIM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KILL_BEFORE = -1, KILL_AFTER = -2, KILL_TORN = -3, SHORT = -4 };  /* above 0: the error number */
enum { CHANGES = O_WRONLY | O_RDWR | O_CREAT | O_TRUNC };
static char root[4096];
static long countdown, synced;
static int fault, lasting;

void arm(const char *folder, long n, int how, int for_ever) {
    strncpy(root, folder, sizeof root - 1);
    countdown = n; fault = how; lasting = for_ever;
}
long left(void) { return countdown; }
long syncs(void) { return synced; }

static int hit(const char *path) {
    if (!*root || strncmp(path, root, strlen(root))) return 0;
    return countdown > 0 ? --countdown == 0 : lasting;
}
static int hit_fd(int fd) {
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link, path, sizeof path - 1);
    if (size < 0) return 0;
    path[size] = 0;
    return hit(path);
}
int flock(int fd, int how) {  /* says that it was reached, then waits (at most 30 s) to be let through */
    const char *gate = getenv("FLOCK_GATE");
    if (gate) close(creat(gate, 0600));
    for (int i = 0; gate && i < 30000 && !access(gate, F_OK); i++) usleep(1000);
    return ((__typeof__(&flock))dlsym(RTLD_NEXT, "flock"))(fd, how);
}
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAULTY(is_hit, call)                                              \
    if (is_hit) {                                                         \
        if (fault > 0) { errno = fault; return -1; }                      \
        if (fault != KILL_AFTER && fault != SHORT) raise(SIGKILL);        \
        if (fault == KILL_AFTER) { call; raise(SIGKILL); }                \
    }                                                                     \
    return call;

int fsync(int fd) { synced++; FAULTY(hit_fd(fd), REAL(fsync)(fd)) }
int rename(const char *from, const char *to) { FAULTY(hit(from), REAL(rename)(from, to)) }
int unlink(const char *path) { FAULTY(hit(path), REAL(unlink)(path)) }
/* Of a folder that is there it changes nothing, and Python's exist_ok asks no more of it. */
int mkdir(const char *path, mode_t mode) { FAULTY(access(path, F_OK) && hit(path), REAL(mkdir)(path, mode)) }
int ftruncate(int fd, off_t size) { FAULTY(hit_fd(fd), REAL(ftruncate)(fd, size)) }
int ftruncate64(int fd, off64_t size) { FAULTY(hit_fd(fd), REAL(ftruncate64)(fd, size)) }
int open(const char *path, int flags, ...) {
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, int); va_end(more);
    FAULTY(flags & CHANGES && hit(path), REAL(open)(path, flags, mode))
}
int open64(const char *path, int flags, ...) {
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, int); va_end(more);
    FAULTY(flags & CHANGES && hit(path), REAL(open64)(path, flags, mode))
}
ssize_t write(int fd, const void *bytes, size_t size) {
    if (fd > 2 && hit_fd(fd)) {
        if (fault > 0) { errno = fault; return -1; }
        if (fault == KILL_BEFORE) raise(SIGKILL);
        ssize_t written = REAL(write)(fd, bytes, fault == KILL_AFTER ? size : (size + 1) / 2);
        if (fault != SHORT) raise(SIGKILL);
        return written;
    }
    return REAL(write)(fd, bytes, size);
}
"""


def build(folder: Path) -> str | None:
    """Make the library in `folder`, for LD_PRELOAD; None where that cannot be."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        return None
    source, library = folder / "shim.c", folder / "shim.so"
    source.write_text(SHIM)
    command = [compiler, "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"]
    subprocess.run(command, check=True, capture_output=True)
    return str(library)


def arm(folder: Path, call: int, fault: str, lasting: bool) -> None:
    """Let the `call`-th call below `folder` meet the fault; `lasting`: and all after it.

    In a process that was started with the library loaded.
    """
    how = FAULTS[fault]
    ctypes.CDLL(None).arm(os.fsencode(folder), ctypes.c_long(call), how, int(lasting))


def was_met() -> bool:
    """Whether the call that was to meet the fault was made."""
    return int(ctypes.CDLL(None).left()) == 0


def is_loaded() -> bool:
    """Whether this process has the library."""
    return hasattr(ctypes.CDLL(None), "arm")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a child's system calls go through SHIM."""
    library = build(tmp_path_factory.mktemp("shim"))
    if library is None:
        pytest.skip("needs a C compiler and Linux to fail system calls")
    return {**os.environ, "LD_PRELOAD": library}
