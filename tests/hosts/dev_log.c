/* Preloaded into an interpreter: who connects to /dev/log gets the socket that DEV_LOG names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

int connect(int fd, const struct sockaddr *address, socklen_t size) {
  int (*next)(int, const struct sockaddr *, socklen_t);
  const char *instead = getenv("DEV_LOG");
  struct sockaddr_un other = {.sun_family = AF_UNIX};
  *(void **)&next = dlsym(RTLD_NEXT, "connect");
  if (instead && address->sa_family == AF_UNIX && size > offsetof(struct sockaddr_un, sun_path) &&
      strcmp(((const struct sockaddr_un *)address)->sun_path, "/dev/log") == 0) {
    strncpy(other.sun_path, instead, sizeof other.sun_path - 1);
    address = (const struct sockaddr *)&other;
    size = sizeof other;
  }
  return next(fd, address, size);
}
