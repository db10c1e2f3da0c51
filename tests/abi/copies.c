/* The library and the module in one process: one of them has the engine, and the other says so.
 * Linked to the library; Lua finds the module.
 *
 *     copies library|module|idle     which is configured first; `idle`: the library never is
 */
#define _GNU_SOURCE /* mkstemp, setenv. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#include "tap.h"

#define YAML "backend_server_monitoring: { log: none, backend_servers: [ { protocol: imap, host: 127.0.0.1, port: 1 } ] }"

static lua_State *L;

/* Runs a chunk; its text, or that of the error, is the answer until the next one. */
static const char *run(const char *chunk) {
  lua_settop(L, 0);
  if (luaL_loadstring(L, chunk) != 0 || lua_pcall(L, 0, 1, 0) != 0)
    printf("# %s\n", lua_tostring(L, -1));
  return lua_tostring(L, -1) ? lua_tostring(L, -1) : "";
}

static const char CONFIGURE[] =
    "nb.configure({ log = 'none', backend_servers = { { protocol = 'imap', host = '127.0.0.1', port = 1 } } }) return 'done'";

/* Data is in both; what belongs to one is nothing to the other. */
static void data(void) {
  nauthilus_backend_result *result = NULL;
  OK("results work in the library", nauthilus_backend_result_new(&result, &why));
  nauthilus_backend_result_release(result);
  CHECK("and in the module", strcmp(run("local r = nauthilus_backend_result.new(); r:user_found(true); return tostring(r:user_found())"), "true") == 0);
  run("return nauthilus_backend_result.new()");
  STATUS("the library does not know Lua's", NAUTHILUS_BACKEND_NO_LUA, nauthilus_backend_result_from_lua(L, 1, &result, &why));
}

int main(int argc, char **argv) {
  const char *first = argc > 1 ? argv[1] : "";
  L = luaL_newstate();
  luaL_openlibs(L);
  CHECK("the module is loaded", strcmp(run("nb = require('nauthilus_backend') return 'done'"), "done") == 0);
  data();

  if (strcmp(first, "library") == 0) {
    OK("the library is configured", nauthilus_backend_configure_yaml(LIT(YAML), &why));
    CHECK("it has the engine", nauthilus_backend_holds_engine() == 1);
    CHECK("the module is not", strstr(run(CONFIGURE), "libnauthilus_backend.so") != NULL);
    CHECK("nor does it start", strstr(run("return select(2, nb.start())"), "libnauthilus_backend.so") != NULL);
    CHECK("it probes nothing", strcmp(run("return tostring(nb.status().running or nb.status().configured)"), "false") == 0);
    OK("the library goes on", nauthilus_backend_start(&why));
    OK("with another configuration", nauthilus_backend_configure_yaml(LIT("backend_server_monitoring: { log: none, backend_servers: [] }"), &why));
  } else {
    CHECK("the module is configured", strcmp(run(CONFIGURE), "done") == 0);
    CHECK("the library has no engine", nauthilus_backend_holds_engine() == 0);
    if (strcmp(first, "module") == 0) {
      STATUS("the library is not configured", NAUTHILUS_BACKEND_OTHER_COPY, nauthilus_backend_configure_yaml(LIT(YAML), &why));
      CHECK("the reason names the file to use", strstr(why.data, "/nauthilus_backend.so") != NULL);
      STATUS("nor does it start", NAUTHILUS_BACKEND_OTHER_COPY, nauthilus_backend_start(&why));
      CHECK("it has no engine", nauthilus_backend_holds_engine() == 0);
      char path[] = "/tmp/nauthilus_backend_XXXXXX";
      int fd = mkstemp(path);
      CHECK("a file", fd >= 0 && write(fd, YAML, strlen(YAML)) == (ssize_t)strlen(YAML));
      close(fd);
      setenv("NAUTHILUS_BACKEND_CONFIG", path, 1);
      nauthilus_backend_servers *servers = NULL;
      STATUS("nor is it configured from the environment", NAUTHILUS_BACKEND_OTHER_COPY, nauthilus_backend_servers_acquire(&servers, &why));
      unsetenv("NAUTHILUS_BACKEND_CONFIG");
      remove(path);
    }
    CHECK("the module goes on", strcmp(run("nb.start() return tostring(nb.status().running)"), "true") == 0);
  }
  lua_close(L);
  return tap_finish();
}
