/* A host in C that embeds Lua: it knows which servers are alive, gives each request a context,
 * runs a script under it and reads from C what the script decided.
 *
 *     cc -Iinclude examples/c/host.c build/lua5.4/nauthilus_backend.so $(pkg-config --cflags --libs lua5.4)
 *     ./a.out backends.yml route.lua
 *
 * It is linked to the module, which contains the C functions as well. A host without Lua has no
 * run_script() and is linked to libnauthilus_backend.so instead. C11 and C++17. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nauthilus_backend.h"

#ifdef __cplusplus
extern "C" {
#endif
#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>
int luaopen_nauthilus_backend(lua_State *L);
#ifdef __cplusplus
}
#endif

static nauthilus_backend_string reason = NAUTHILUS_BACKEND_STRING_EMPTY;

/* Ends the program if a call has failed. */
static void need(nauthilus_backend_status status, const char *what) {
  if (status == NAUTHILUS_BACKEND_OK)
    return;
  fprintf(stderr, "%s: %s (%s)\n", what, reason.data, nauthilus_backend_status_text(status));
  exit(1);
}

static void fail(lua_State *L) {
  fprintf(stderr, "%s\n", lua_tostring(L, -1));
  exit(1);
}

/* Calls the function on top of the stack, which then has its result. */
static void call(lua_State *L) {
  if (lua_pcall(L, 0, 1, 0) != 0)
    fail(L);
}

/* Prints the servers that are alive, and checks each once more, by itself. */
static void show_servers(void) {
  static const nauthilus_backend_setting settings[] = {
      {NAUTHILUS_BACKEND_LITERAL("connect_timeout"), NAUTHILUS_BACKEND_LITERAL("2s")}};
  nauthilus_backend_servers *servers = NULL;
  nauthilus_backend_server server;
  uint64_t generation = 0;
  size_t count = 0, i;

  need(nauthilus_backend_servers_acquire(&servers, &reason), "servers");
  need(nauthilus_backend_servers_count(servers, &count, &reason), "servers");
  need(nauthilus_backend_generation(&generation, &reason), "generation");
  printf("%lu alive, generation %s\n", (unsigned long)count, generation > 0 ? "known" : "0");
  for (i = 0; i < count; i++) {
    nauthilus_backend_status status;
    need(nauthilus_backend_servers_at(servers, i, &server, sizeof server, &reason), "server");
    status = nauthilus_backend_check(server.ip.data, server.ip.size, server.port, settings, 1, &reason);
    printf("%s %s %u: %s\n", server.protocol.data, server.ip.data, (unsigned)server.port,
           status == NAUTHILUS_BACKEND_OK ? "well" : reason.data);
    if (status != NAUTHILUS_BACKEND_OK)
      nauthilus_backend_string_release(&reason);
  }
  /* From here on the views of `server` are invalid. */
  nauthilus_backend_servers_release(servers);
}

/* Sets what the host knows of the user before a script runs. */
static nauthilus_backend_context *new_request(void) {
  static const nauthilus_backend_view groups[] = {NAUTHILUS_BACKEND_LITERAL("staff")};
  nauthilus_backend_context *context = NULL;
  nauthilus_backend_result *base = NULL;

  need(nauthilus_backend_result_new(&base, &reason), "result");
  need(nauthilus_backend_result_set_flag(base, NAUTHILUS_BACKEND_FIELD_USER_FOUND, 1, &reason), "flag");
  need(nauthilus_backend_result_set_list(base, NAUTHILUS_BACKEND_FIELD_GROUPS, groups, 1, &reason), "groups");
  need(nauthilus_backend_result_set_attribute(base, "uid", 3, "jane", 4, &reason), "uid");
  need(nauthilus_backend_context_new(&context, &reason), "context");
  need(nauthilus_backend_context_set_base(context, base, &reason), "base");
  nauthilus_backend_result_release(base); /* The context has a copy. */
  return context;
}

/* Runs a script whose decisions go into `context`. Also reads the result that the script returns. */
static void run_script(lua_State *L, nauthilus_backend_context *context, const char *path) {
  nauthilus_backend_result *result = NULL;
  nauthilus_backend_string uid = NAUTHILUS_BACKEND_STRING_EMPTY;

  need(nauthilus_backend_context_bind_lua(L, context, &reason), "bind");
  if (luaL_loadfile(L, path) != 0)
    fail(L);
  call(L);
  need(nauthilus_backend_result_from_lua(L, -1, &result, &reason), "the script's result");
  need(nauthilus_backend_result_attribute_value_at(result, "hostip", 6, 0, NULL, &uid, &reason), "hostip");
  printf("the script says hostip %s\n", uid.data);
  nauthilus_backend_string_release(&uid);
  nauthilus_backend_result_release(result);
  lua_pop(L, 1);
}

static void show_headers(nauthilus_backend_context *context) {
  nauthilus_backend_string name = NAUTHILUS_BACKEND_STRING_EMPTY, value = NAUTHILUS_BACKEND_STRING_EMPTY;
  size_t count = 0, i;

  need(nauthilus_backend_context_header_count(context, &count, &reason), "headers");
  for (i = 0; i < count; i++) {
    need(nauthilus_backend_context_header_at(context, i, &name, &value, &reason), "header");
    printf("%s: %s\n", name.data, value.data);
    nauthilus_backend_string_release(&name);
    nauthilus_backend_string_release(&value);
  }
}

int main(int argc, char **argv) {
  nauthilus_backend_context *context;
  lua_State *L;

  if (argc != 3 || nauthilus_backend_abi_version() != NAUTHILUS_BACKEND_ABI_VERSION) {
    fprintf(stderr, "usage: %s config.yml script.lua, with version %d of the library\n", argv[0],
            NAUTHILUS_BACKEND_ABI_VERSION);
    return 2;
  }
  need(nauthilus_backend_configure_file(argv[1], strlen(argv[1]), &reason), "configuration");
  need(nauthilus_backend_start(&reason), "start");
  need(nauthilus_backend_wait_ready(10000, &reason), "first verdicts");
  show_servers();

  L = luaL_newstate();
  luaL_openlibs(L);
  lua_getglobal(L, "package");
  lua_getfield(L, -1, "loaded");
  lua_pushcfunction(L, luaopen_nauthilus_backend);
  call(L);
  lua_setfield(L, -2, "nauthilus_backend"); /* `require` returns this module. */
  lua_pop(L, 2);

  context = new_request();
  run_script(L, context, argv[2]);
  lua_close(L); /* The context stays valid. */
  show_headers(context);
  nauthilus_backend_context_release(context);
  need(nauthilus_backend_stop(&reason), "stop");
  return 0;
}
