/* For LD_PRELOAD: the wall clock stands still at the second since 1970 that the file FROZEN_CLOCK has. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now)
{
    const char *path = getenv("FROZEN_CLOCK");
    char text[32] = { 0 };
    int file;

    if (clock != CLOCK_REALTIME || path == NULL)
        return (int) syscall(SYS_clock_gettime, clock, now);
    file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return -1;
    if (read(file, text, sizeof text - 1) > 0) {
        now->tv_sec = atol(text);
        now->tv_nsec = 0;
    }
    close(file);
    return 0;
}
