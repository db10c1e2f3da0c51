/* Preloaded into a host: the system refuses every thread while the file named by THREADS_FAIL is there. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
  int (*next)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
  const char *fail = getenv("THREADS_FAIL");
  if (fail && access(fail, F_OK) == 0) return EAGAIN;
  *(void **)&next = dlsym(RTLD_NEXT, "pthread_create");
  return next(thread, attributes, run, argument);
}
