/* Preloaded into a host: each name mN.test has eight addresses, 127.1.N.1 to 127.1.N.8. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdio.h>

int getaddrinfo(const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found) {
  int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
  int number, end = 0;
  *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
  if (!name || sscanf(name, "m%d.test%n", &number, &end) != 1 || !end || name[end])
    return next(name, service, hints, found);
  *found = NULL;
  for (int last = 8; last >= 1; last--) {
    char address[32];
    struct addrinfo *one;
    snprintf(address, sizeof address, "127.1.%d.%d", number, last);
    int status = next(address, service, hints, &one);
    if (status) {
      if (*found) freeaddrinfo(*found);
      return status;
    }
    one->ai_next = *found;
    *found = one;
  }
  return 0;
}
