/* Preloaded into a host: a getaddrinfo that has a socket open for a while, as the C library's has until a name server
 * answers, and then sends to it and closes it. It makes the file LOOKED_UP.begun, waits for the file LOOKED_UP.goes, and
 * makes LOOKED_UP when it is done. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static char path[4096];

static const char *path_of(const char *ending) {
  snprintf(path, sizeof path, "%s%s", getenv("LOOKED_UP"), ending);
  return path;
}

static void make(const char *ending) {
  int file = open(path_of(ending), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
  if (file >= 0) close(file);
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  struct timespec moment = {0, 1000000};
  int pair[2], is_sent;
  if (socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair) != 0) return EAI_SYSTEM;
  make(".begun");
  for (int tries = 0; tries < 60000 && access(path_of(".goes"), F_OK) != 0; tries++) nanosleep(&moment, NULL);
  is_sent = write(pair[0], "x", 1) == 1;
  close(pair[0]);
  close(pair[1]);
  make("");
  *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
  return is_sent ? next(name, service, hints, found) : EAI_AGAIN;
}
