/* Threads that are cancelled (pthread_cancel) while they are inside the library: each ends only
 * after its call, and the process goes on. Linked to a module, whose functions are called from C
 * and from Lua. */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "tap.h"

int luaopen_nauthilus_backend(lua_State *L);

/* How many threads of each kind are cancelled, one after the other. Most are inside a call then. */
#define THREADS 20

/* Nothing answers at this target within a minute: waiting for its verdict takes its time. */
static const char *const yaml =
    "backend_server_monitoring:\n"
    "  log: none\n"
    "  backend_servers:\n"
    "    - { protocol: imap, host: 192.0.2.1, port: 20001, connect_timeout: 1m }\n";

static char path[] = "/tmp/nauthilus_backend_XXXXXX";
static atomic_int begun;

/* Opens and reads a file, opens a log, sleeps. */
static void *in_c(void *nothing) {
  (void)nothing;
  for (;;) {
    atomic_fetch_add(&begun, 1);
    nauthilus_backend_configure_file(path, strlen(path), NULL);
    nauthilus_backend_wait_ready(5, NULL);
    nauthilus_backend_configure_yaml(LIT("backend_server_monitoring: { log: /dev/null, backend_servers: [] }"), NULL);
    nauthilus_backend_stop(NULL);
    pthread_testcancel();
  }
  return NULL;
}

static void *in_lua(void *state) {
  lua_State *L = (lua_State *)state;
  for (;;) {
    atomic_fetch_add(&begun, 1);
    lua_pushvalue(L, 1);
    lua_pushstring(L, path);
    if (lua_pcall(L, 1, 0, 0) != 0) {
      printf("# %s\n", lua_tostring(L, -1));
      return NULL;
    }
    pthread_testcancel();
  }
}

/* Whether a thread that is cancelled after its first call has begun ends as a cancelled one. */
static int ends(void *(*work)(void *), void *argument) {
  pthread_t thread;
  void *result = NULL;
  atomic_store(&begun, 0);
  if (pthread_create(&thread, NULL, work, argument) != 0)
    return 0;
  while (atomic_load(&begun) == 0)
    sched_yield();
  pthread_cancel(thread);
  return pthread_join(thread, &result) == 0 && result == PTHREAD_CANCELED;
}

int main(void) {
  nauthilus_backend_servers *servers = NULL;
  lua_State *L = luaL_newstate();
  FILE *file = fdopen(mkstemp(path), "w");
  int number, ended = 0;

  fputs(yaml, file);
  fclose(file);
  for (number = 0; number < THREADS; number++)
    ended += ends(in_c, NULL);
  CHECK("threads that C has cancelled have ended", ended == THREADS);

  luaL_openlibs(L);
  lua_pushcfunction(L, luaopen_nauthilus_backend);
  lua_call(L, 0, 1);
  lua_setglobal(L, "nb");
  if (luaL_loadstring(L, "local path = ...\n"
                         "nb.configure(path)\n"
                         "nb.wait_ready(0.005)\n"
                         "nb.configure({ log = '/dev/null', backend_servers = {} })\n"
                         "nb.stop()\n"
                         "collectgarbage()") != 0)
    return 2;
  ended = 0;
  for (number = 0; number < THREADS; number++) {
    ended += ends(in_lua, L);
    lua_settop(L, 1);
  }
  CHECK("threads that were cancelled in Lua have ended", ended == THREADS);
  lua_close(L);

  OK("another thread goes on", nauthilus_backend_configure_file(path, strlen(path), &why));
  OK("with its list", nauthilus_backend_servers_acquire(&servers, &why));
  nauthilus_backend_servers_release(servers);
  unlink(path);
  return tap_finish();
}
