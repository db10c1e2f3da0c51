/* A host that hides the symbols of its Lua: it loads the Lua library, as a plugin would, with RTLD_LOCAL.
 *
 *     hidden_lua liblua5.4.so.0 script.lua
 */
#include <dlfcn.h>
#include <stdio.h>

typedef void *new_state_function(void);
typedef void open_libraries_function(void *);
typedef int load_function(void *, const char *, const char *);
typedef int call_function(void *, int, int, int, long, void *);
typedef const char *text_function(void *, int, void *);

int main(int count, char **arguments) {
  new_state_function *new_state = NULL;
  open_libraries_function *open_libraries = NULL;
  load_function *load = NULL;
  call_function *call = NULL;
  text_function *text = NULL;
  void *state;
  void *lua = count == 3 ? dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL) : NULL;
  if (!lua) return 2;
  *(void **)&new_state = dlsym(lua, "luaL_newstate");
  *(void **)&open_libraries = dlsym(lua, "luaL_openlibs");
  *(void **)&load = dlsym(lua, "luaL_loadfilex");
  *(void **)&call = dlsym(lua, "lua_pcallk");
  *(void **)&text = dlsym(lua, "lua_tolstring");
  if (!new_state || !open_libraries || !load || !call || !text) return 2;
  state = new_state();
  open_libraries(state);
  if (load(state, arguments[2], NULL) == 0 && call(state, 0, 0, 0, 0, NULL) == 0) return 0;
  puts(text(state, -1, NULL));
  return 1;
}
