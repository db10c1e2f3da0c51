/* Preloaded into a host: thread-local variables as a large program has them. glibc puts them on the stack of
 * each thread. */
_Thread_local char room[56 * 1024] __attribute__((tls_model("initial-exec"), visibility("default")));

char *of_this_thread(void);
char *of_this_thread(void) {
  return room;
}
