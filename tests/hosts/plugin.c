/* A plugin of a host that has nothing to do with Lua: it brings a Lua and the module for it. */
#include <stdio.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

int luaopen_nauthilus_backend(lua_State *L);

static lua_State *L;

/* Runs a chunk; its text, or that of the error, is the answer until the next one. */
const char *plugin_run(const char *chunk) {
  if (!L) {
    L = luaL_newstate();
    luaL_openlibs(L);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "preload");
    lua_pushcfunction(L, luaopen_nauthilus_backend);
    lua_setfield(L, -2, "nauthilus_backend");
  }
  lua_settop(L, 0);
  if (luaL_loadstring(L, chunk) == 0) (void)lua_pcall(L, 0, 1, 0);
  return lua_tostring(L, -1) ? lua_tostring(L, -1) : "";
}
