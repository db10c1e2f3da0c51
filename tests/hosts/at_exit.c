/* Preloaded into an interpreter: reports every function that somebody wants to have called when
 * the process exits, with the name of the library that holds it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>

int __cxa_atexit(void (*function)(void *), void *argument, void *library);

int __cxa_atexit(void (*function)(void *), void *argument, void *library) {
  int (*next)(void (*)(void *), void *, void *);
  Dl_info info;
  *(void **)&next = dlsym(RTLD_NEXT, "__cxa_atexit");
  if (dladdr(*(void **)&function, &info) && info.dli_fname)
    fprintf(stderr, "at exit: %s in %s\n", info.dli_sname ? info.dli_sname : "?", info.dli_fname);
  return next(function, argument, library);
}
