/* Faults in the operating system, for tests: LD_PRELOAD this, then call luna_fault_arm(root, mode, n).
   The n-th file operation below `root` fails, is cut in half, or kills the process. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { OFF, ENOSPC_ONCE, ENOSPC_EVER, EIO_ONCE, EIO_EVER, SHORT_WRITE, KILL_BEFORE, KILL_HALF, KILL_AFTER };

static char root[PATH_MAX];
static size_t root_length;
static int mode = OFF;
static long target, count, fired;
static const char *fired_at = "";

void luna_fault_arm(const char *where, int how, long n) {
    strncpy(root, where, sizeof root - 1);
    root_length = strlen(root);
    target = n; count = 0; fired = 0; fired_at = ""; mode = how;
}
long luna_fault_count(void) { return count; }
long luna_fault_fired(void) { return fired; }
const char *luna_fault_name(void) { return fired_at; }

static int below(const char *path) {
    return strncmp(path, root, root_length) == 0 && (path[root_length] == '/' || path[root_length] == 0);
}

static int below_fd(int fd) {
    char link[64], path[PATH_MAX];
    if (fd == AT_FDCWD) strcpy(link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return below(path);
}

static int below_at(int fd, const char *path) { return path[0] == '/' ? below(path) : below_fd(fd); }

static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }

/* What happens to this operation: 0 as usual, an errno, -1 kill after it, -2 half of it. */
static int fate(int watched, const char *name) {
    if (mode == OFF || !watched) return 0;
    count++;
    int ever = mode == ENOSPC_EVER || mode == EIO_EVER;
    if (count != target && !(ever && count > target)) return 0;
    fired++;
    if (count == target) fired_at = name;
    switch (mode) {
    case ENOSPC_ONCE: case ENOSPC_EVER: return ENOSPC;
    case EIO_ONCE: case EIO_EVER: return EIO;
    case SHORT_WRITE: case KILL_HALF: return -2;
    case KILL_AFTER: return -1;
    default: die(); return 0;
    }
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name);

#define RUN(type, call) do { \
    if (what > 0) { errno = what; return -1; } \
    if (what == -2 && mode == KILL_HALF) die(); \
    type result = (call); \
    if (what == -1) die(); \
    return result; } while (0)

#define OPEN(function) \
int function(const char *path, int flags, ...) { \
    REAL(int, #function, const char *, int, ...) \
    va_list more; va_start(more, flags); mode_t m = va_arg(more, mode_t); va_end(more); \
    int what = fate(below_at(AT_FDCWD, path), #function); \
    RUN(int, real(path, flags, m)); }
OPEN(open)
OPEN(open64)

#define OPENAT(function) \
int function(int fd, const char *path, int flags, ...) { \
    REAL(int, #function, int, const char *, int, ...) \
    va_list more; va_start(more, flags); mode_t m = va_arg(more, mode_t); va_end(more); \
    int what = fate(below_at(fd, path), #function); \
    RUN(int, real(fd, path, flags, m)); }
OPENAT(openat)
OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t)
    int what = fate(mode != OFF && below_fd(fd), "write");
    if (what == -2) {
        ssize_t half = real(fd, data, size > 1 ? size / 2 : size);
        if (mode == KILL_HALF) die();
        return half;
    }
    RUN(ssize_t, real(fd, data, size));
}

#define PWRITE(function, offset_type) \
ssize_t function(int fd, const void *data, size_t size, offset_type offset) { \
    REAL(ssize_t, #function, int, const void *, size_t, offset_type) \
    int what = fate(mode != OFF && below_fd(fd), #function); \
    if (what == -2) { \
        ssize_t half = real(fd, data, size > 1 ? size / 2 : size, offset); \
        if (mode == KILL_HALF) die(); \
        return half; \
    } \
    RUN(ssize_t, real(fd, data, size, offset)); }
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

#define ON_FD(function, declared, passed, ...) \
int function declared { \
    REAL(int, #function, __VA_ARGS__) \
    int what = fate(mode != OFF && below_fd(fd), #function); \
    RUN(int, real passed); }
ON_FD(fsync, (int fd), (fd), int)
ON_FD(fdatasync, (int fd), (fd), int)
ON_FD(ftruncate, (int fd, off_t size), (fd, size), int, off_t)
ON_FD(ftruncate64, (int fd, off64_t size), (fd, size), int, off64_t)
ON_FD(fchmod, (int fd, mode_t m), (fd, m), int, mode_t)

int close(int fd) {
    REAL(int, "close", int)
    int what = fate(mode != OFF && below_fd(fd), "close");
    if (what > 0) { real(fd); errno = what; return -1; }
    RUN(int, real(fd));
}

#define ON_PATH(function, declared, passed, ...) \
int function declared { \
    REAL(int, #function, __VA_ARGS__) \
    int what = fate(below_at(AT_FDCWD, path), #function); \
    RUN(int, real passed); }
ON_PATH(mkdir, (const char *path, mode_t m), (path, m), const char *, mode_t)
ON_PATH(chmod, (const char *path, mode_t m), (path, m), const char *, mode_t)
ON_PATH(unlink, (const char *path), (path), const char *)
ON_PATH(rmdir, (const char *path), (path), const char *)
ON_PATH(rename, (const char *path, const char *to), (path, to), const char *, const char *)

int unlinkat(int fd, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int)
    int what = fate(below_at(fd, path), "unlinkat");
    RUN(int, real(fd, path, flags));
}

int renameat2(int fd, const char *path, int to_fd, const char *to, unsigned int flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned int)
    int what = fate(below_at(fd, path), "renameat2");
    RUN(int, real(fd, path, to_fd, to, flags));
}
