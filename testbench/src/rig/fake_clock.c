/* Shows a program another wall clock, another word of the kernel about it, and another boot id: LD_PRELOAD.
 *
 * What it shows stands in two files in the folder TAPLINE_FAKE_CLOCK and is read anew each time, so that a test can set
 * the clock while the program runs:
 *   wall     "OFFSET_MS VOUCHED": added to CLOCK_REALTIME, and whether adjtimex says that it is synchronised
 *   boot_id  what /proc/sys/kernel/random/boot_id shows
 *   machine  what /etc/machine-id shows, and no board's serial number; if the file is there
 * CLOCK_BOOTTIME and CLOCK_MONOTONIC are the kernel's: a time namespace can set those. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/timex.h>
#include <time.h>
#include <unistd.h>

static long long offset_ms;
static int vouched;

static void look(void) {
    const char *folder = getenv("TAPLINE_FAKE_CLOCK");
    char path[4096], text[64] = {0};
    if (!folder) return;
    snprintf(path, sizeof path, "%s/wall", folder);
    int file = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    if (syscall(SYS_read, file, text, sizeof text - 1) > 0) sscanf(text, "%lld %d", &offset_ms, &vouched);
    syscall(SYS_close, file);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(clock, now);
    if (done == 0 && clock == CLOCK_REALTIME) {
        look();
        long long ns = now->tv_nsec + offset_ms % 1000 * 1000000;
        now->tv_sec += offset_ms / 1000;
        if (ns < 0) now->tv_sec--, ns += 1000000000;
        if (ns >= 1000000000) now->tv_sec++, ns -= 1000000000;
        now->tv_nsec = ns;
    }
    return done;
}

int adjtimex(struct timex *query) {
    int (*real)(struct timex *) = dlsym(RTLD_NEXT, "adjtimex");
    int done = real(query);
    if (done < 0) return done;
    look();
    if (vouched) query->status &= ~STA_UNSYNC; else query->status |= STA_UNSYNC;
    return vouched ? TIME_OK : TIME_ERROR;
}

static int open_as_shown(const char *name, const char *path, int flags, mode_t mode) {
    int (*real)(const char *, int, ...) = dlsym(RTLD_NEXT, name);
    const char *folder = getenv("TAPLINE_FAKE_CLOCK");
    char shown[4096];
    if (folder && strcmp(path, "/proc/sys/kernel/random/boot_id") == 0) {
        snprintf(shown, sizeof shown, "%s/boot_id", folder);
        path = shown;
    }
    int names_machine = strcmp(path, "/etc/machine-id") == 0;
    int names_board = strcmp(path, "/sys/firmware/devicetree/base/serial-number") == 0;
    if (folder && (names_machine || names_board)) {
        snprintf(shown, sizeof shown, "%s/machine", folder);
        if (access(shown, R_OK) == 0) path = shown;
    }
    return real(path, flags, mode);
}

#define OPEN(name)                                                   \
    int name(const char *path, int flags, ...) {                     \
        va_list rest;                                                \
        va_start(rest, flags);                                       \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, mode_t) : 0; \
        va_end(rest);                                                \
        return open_as_shown(#name, path, flags, mode);              \
    }
OPEN(open)
OPEN(open64)
