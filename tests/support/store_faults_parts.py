"""What tests of store_faults share."""

import os
import shutil
import subprocess
import sys

import pytest

# Preloaded before the C library: the N-th call that changes something below the run's folder kills or fails.
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
static char root[4096];
static long countdown, synced;
static int fault;

void arm(const char *folder, long n, int how) { strncpy(root, folder, sizeof root - 1); countdown = n; fault = how; }
long left(void) { return countdown; }
long syncs(void) { return synced; }

static int hit(const char *path) {
    return countdown > 0 && !strncmp(path, root, strlen(root)) && --countdown == 0;
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
    FAULTY(hit(path), REAL(open)(path, flags, mode))
}
int open64(const char *path, int flags, ...) {
    va_list more; va_start(more, flags); mode_t mode = va_arg(more, int); va_end(more);
    FAULTY(hit(path), REAL(open64)(path, flags, mode))
}
ssize_t write(int fd, const void *bytes, size_t size) {
    if (fd > 2 && hit_fd(fd)) {
        if (fault > 0) { errno = fault; return -1; }
        if (fault == KILL_BEFORE) raise(SIGKILL);
        ssize_t written = REAL(write)(fd, bytes, fault == KILL_AFTER ? size : size / 2);
        if (fault != SHORT) raise(SIGKILL);
        return written;
    }
    return REAL(write)(fd, bytes, size);
}
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment in which a child's system calls go through SHIM."""
    compiler = shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C compiler and Linux to fail system calls")
    folder = tmp_path_factory.mktemp("shim")
    (folder / "shim.c").write_text(SHIM)
    build = [
        compiler,
        "-shared",
        "-fPIC",
        "-o",
        str(folder / "shim.so"),
        str(folder / "shim.c"),
        "-ldl",
    ]
    subprocess.run(build, check=True, capture_output=True)
    return {**os.environ, "LD_PRELOAD": str(folder / "shim.so")}
