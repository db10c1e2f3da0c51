/* Preloaded into a host: the C library as it is in a process whose locale is German in ISO 8859-1,
 * with name servers that fail as soon as the file named by NAMES_FAIL is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdlib.h>
#include <unistd.h>

const char *gai_strerror(int code) {
  (void)code;
  return "Tempor\xe4rer Fehler bei der Namensaufl\xf6sung";
}

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  const char *fail = getenv("NAMES_FAIL");
  if (fail && access(fail, F_OK) == 0) return EAI_AGAIN;
  *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
  return next(name, service, hints, found);
}
