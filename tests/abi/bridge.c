/* The functions between C and Lua, for any Lua whose module this is linked to: both sides have
 * the same result and the same context, and nothing raises. Compiles as C11 and as C++17. */
#include <stdlib.h>

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

#include "tap.h"

static nauthilus_backend_string text = NAUTHILUS_BACKEND_STRING_EMPTY;

static lua_State *open_state(int load) {
  lua_State *L = luaL_newstate();
  luaL_openlibs(L);
  if (load) {
    lua_pushcfunction(L, luaopen_nauthilus_backend);
    lua_call(L, 0, 1);
    lua_setglobal(L, "nb");
  }
  return L;
}

/* Runs a chunk, with what is on top of the stack as its argument; keeps what it returns there. */
static void run(lua_State *L, const char *chunk, int arguments, int results) {
  if (luaL_loadstring(L, chunk) != 0) {
    printf("# %s\n", lua_tostring(L, -1));
    exit(2);
  }
  lua_insert(L, -1 - arguments);
  if (lua_pcall(L, arguments, results, 0) != 0) {
    printf("# %s\n", lua_tostring(L, -1));
    exit(2);
  }
}

static int header_is(nauthilus_backend_context *context, size_t index, const char *name, const char *value) {
  nauthilus_backend_string its_name = NAUTHILUS_BACKEND_STRING_EMPTY, its_value = NAUTHILUS_BACKEND_STRING_EMPTY;
  return nauthilus_backend_context_header_at(context, index, &its_name, &its_value, NULL) == NAUTHILUS_BACKEND_OK &&
         is_text(&its_name, name, strlen(name)) + is_text(&its_value, value, strlen(value)) == 2;
}

static size_t headers(nauthilus_backend_context *context) {
  size_t count = 99;
  nauthilus_backend_context_header_count(context, &count, NULL);
  return count;
}

static void misuse(void) {
  lua_State *bare = open_state(0), *L = open_state(1);
  nauthilus_backend_result *result = NULL, *own = NULL;
  nauthilus_backend_context *context = NULL;

  nauthilus_backend_result_new(&own, NULL);
  lua_pushnumber(bare, 1);
  STATUS("a state that has not loaded it: result_from_lua", NAUTHILUS_BACKEND_NOT_LOADED, nauthilus_backend_result_from_lua(bare, 1, &result, &why));
  STATUS("result_push_lua", NAUTHILUS_BACKEND_NOT_LOADED, nauthilus_backend_result_push_lua(bare, own, &why));
  STATUS("context_from_lua", NAUTHILUS_BACKEND_NOT_LOADED, nauthilus_backend_context_from_lua(bare, 1, &context, &why));
  STATUS("context_bind_lua", NAUTHILUS_BACKEND_NOT_LOADED, nauthilus_backend_context_bind_lua(bare, NULL, &why));
  CHECK("its stack is as it was", lua_gettop(bare) == 1);

  STATUS("no state: result_from_lua", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_result_from_lua(NULL, 1, &result, &why));
  STATUS("no state: result_push_lua", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_result_push_lua(NULL, own, &why));
  STATUS("no state: context_from_lua", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_context_from_lua(NULL, 1, &context, &why));
  STATUS("no state: context_bind_lua", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_context_bind_lua(NULL, NULL, &why));
  run(L, "return nb.new_context(), nauthilus_backend_result.new(), {}, 7", 0, 4);
  STATUS("no out parameter: result", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_result_from_lua(L, 2, NULL, &why));
  STATUS("no out parameter: context", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_context_from_lua(L, 1, NULL, &why));
  STATUS("no result to push", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_result_push_lua(L, NULL, &why));
  STATUS("a context is no result", NAUTHILUS_BACKEND_WRONG_LUA_VALUE, nauthilus_backend_result_from_lua(L, 1, &result, &why));
  STATUS("a result is no context", NAUTHILUS_BACKEND_WRONG_LUA_VALUE, nauthilus_backend_context_from_lua(L, 2, &context, &why));
  STATUS("a table is neither", NAUTHILUS_BACKEND_WRONG_LUA_VALUE, nauthilus_backend_result_from_lua(L, -2, &result, &why));
  STATUS("a number is neither", NAUTHILUS_BACKEND_WRONG_LUA_VALUE, nauthilus_backend_context_from_lua(L, -1, &context, &why));
  STATUS("index 0", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_result_from_lua(L, 0, &result, &why));
  STATUS("an index above the stack", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_result_from_lua(L, 5, &result, &why));
  STATUS("one below it", NAUTHILUS_BACKEND_INVALID_ARGUMENT, nauthilus_backend_result_from_lua(L, -5, &result, &why));
  CHECK("no handle came of it", result == NULL && context == NULL);
  CHECK("the stack is as it was", lua_gettop(L) == 4);

  /* A script's userdata of another kind. */
  lua_newuserdata(L, 64);
  STATUS("a foreign userdata", NAUTHILUS_BACKEND_WRONG_LUA_VALUE, nauthilus_backend_result_from_lua(L, -1, &result, &why));
  lua_pop(L, 1);

  /* Twice: Lua 5.4.7 keeps room for an error's text, and gives it away after the first refusal. */
  for (int round = 0; round < 2; round++)
    while (lua_checkstack(L, 1))
      lua_pushnil(L);
  STATUS("a full stack", NAUTHILUS_BACKEND_LUA_ERROR, nauthilus_backend_result_push_lua(L, own, &why));
  nauthilus_backend_result_release(own);
  /* Lua needs room to run finalisers. */
  lua_settop(L, 0);
  lua_close(L);
  lua_close(bare);
}

static void results(void) {
  lua_State *L = open_state(1);
  nauthilus_backend_result *result = NULL, *same = NULL;
  nauthilus_backend_type type;
  int32_t flag = 0;

  run(L, "r = nauthilus_backend_result.new(); r:attributes({n = 993, s = 'x', b = false, l = {'p', 'q'}}); return r", 0, 1);
  OK("the script's result", nauthilus_backend_result_from_lua(L, -1, &result, &why));
  lua_pop(L, 1);
  OK("its number", nauthilus_backend_result_attribute_value_at(result, LIT("n"), 0, &type, &text, &why));
  CHECK("as a header shows it", is_text(&text, LIT("993")) && (type == NAUTHILUS_BACKEND_TYPE_INTEGER || type == NAUTHILUS_BACKEND_TYPE_NUMBER));
  OK("its boolean", nauthilus_backend_result_attribute_value_at(result, LIT("b"), 0, &type, &text, &why));
  CHECK("is one", is_text(&text, LIT("false")) && type == NAUTHILUS_BACKEND_TYPE_BOOLEAN);
  OK("its array", nauthilus_backend_result_attribute_value_at(result, LIT("l"), 1, &type, &text, &why));
  CHECK("is one", is_text(&text, LIT("q")) && type == NAUTHILUS_BACKEND_TYPE_TEXT);

  OK("C changes it", nauthilus_backend_result_set_flag(result, NAUTHILUS_BACKEND_FIELD_USER_FOUND, 1, &why));
  nauthilus_backend_result_set_attribute_integer(result, LIT("i"), 5, NULL);
  nauthilus_backend_result_set_attribute_boolean(result, LIT("b"), 1, NULL);
  nauthilus_backend_result_set_attribute_list(result, LIT("e"), NULL, 0, NULL);
  run(L, "local a = r:attributes(); assert(r:user_found() == true and a.i == 5 and a.b == true and type(a.e) == 'table')", 0, 0);
  run(L, "r:authenticated(true)", 0, 0);
  OK("and the script does", nauthilus_backend_result_flag(result, NAUTHILUS_BACKEND_FIELD_AUTHENTICATED, &flag, &why));
  CHECK("they have the same", flag == 1);

  OK("it is pushed", nauthilus_backend_result_push_lua(L, result, &why));
  run(L, "local p = ...; p:account_field('uid'); assert(r:account_field() == 'uid')", 1, 0);
  OK("once more", nauthilus_backend_result_push_lua(L, result, &why));
  OK("and taken", nauthilus_backend_result_from_lua(L, -1, &same, &why));
  CHECK("the stack has what was pushed, nothing else", lua_gettop(L) == 1);
  lua_close(L);
  OK("it outlives the state", nauthilus_backend_result_text(same, NAUTHILUS_BACKEND_FIELD_ACCOUNT_FIELD, &text, &why));
  CHECK("as it was", is_text(&text, LIT("uid")));
  nauthilus_backend_result_release(same);

  L = open_state(1);
  OK("another state gets it", nauthilus_backend_result_push_lua(L, result, &why));
  nauthilus_backend_result_release(result);
  run(L, "local p = ...; collectgarbage(); assert(p:account_field() == 'uid')", 1, 0);
  lua_close(L);

  L = open_state(1);
  {
    lua_State *coroutine = lua_newthread(L);
    nauthilus_backend_result_new(&result, NULL);
    OK("a coroutine gets one", nauthilus_backend_result_push_lua(coroutine, result, &why));
    CHECK("on its own stack", lua_gettop(coroutine) == 1 && lua_gettop(L) == 1);
    nauthilus_backend_result_release(result);
  }
  lua_close(L);
}

static const char SCRIPT[] =
    "local result = nauthilus_backend_result.new()\n"
    "result:attributes({ hostip = '127.0.0.1', mail = 'new' })\n"
    "nb.apply_backend_result(result)\n"
    "nb.remove_from_backend_result({ 'mail' })\n"
    "nb.select_backend_server('127.0.0.1', 993)";

static void contexts(void) {
  lua_State *L = open_state(1);
  nauthilus_backend_context *context = NULL, *other = NULL, *own = NULL;
  nauthilus_backend_result *base = NULL;

  nauthilus_backend_context_new(&context, NULL);
  nauthilus_backend_context_new(&other, NULL);
  nauthilus_backend_result_new(&base, NULL);
  nauthilus_backend_result_set_attribute(base, LIT("mail"), LIT("old"), NULL);
  nauthilus_backend_context_set_base(context, base, NULL);
  nauthilus_backend_result_release(base);

  OK("a context is bound", nauthilus_backend_context_bind_lua(L, context, &why));
  CHECK("nothing is left on the stack", lua_gettop(L) == 0);
  run(L, SCRIPT, 0, 0);
  CHECK("the script's decisions are C's to read", headers(context) == 4 && header_is(context, 0, "Auth-Server", "127.0.0.1") &&
        header_is(context, 1, "Auth-Port", "993") && header_is(context, 2, "X-Nauthilus-Hostip", "127.0.0.1") &&
        header_is(context, 3, "X-Nauthilus-Mail", "new"));
  run(L, "collectgarbage(); local mine = nb.new_context()\n"
         "nb.with_context(mine, nb.select_backend_server, '127.0.0.9', 1)\n"
         "assert(mine:selected() == '127.0.0.9')", 0, 0);
  CHECK("with_context() keeps its own", header_is(context, 0, "Auth-Server", "127.0.0.1"));
  run(L, "coroutine.wrap(function() nb.select_backend_server('127.0.0.2', 993) end)()", 0, 0);
  CHECK("a coroutine acts on it, too", header_is(context, 0, "Auth-Server", "127.0.0.2"));

  OK("another one is bound", nauthilus_backend_context_bind_lua(L, other, &why));
  run(L, "nb.select_backend_server('127.0.0.3', 143)", 0, 0);
  CHECK("it gets what comes now", headers(other) == 2 && header_is(context, 0, "Auth-Server", "127.0.0.2"));
  OK("none is bound", nauthilus_backend_context_bind_lua(L, NULL, &why));
  run(L, "assert(nb.context():selected() == nil); nb.select_backend_server('127.0.0.4', 143); return nb.context()", 0, 1);
  CHECK("the state has its own", header_is(other, 0, "Auth-Server", "127.0.0.3"));
  OK("which C can take", nauthilus_backend_context_from_lua(L, -1, &own, &why));
  CHECK("and read", header_is(own, 0, "Auth-Server", "127.0.0.4"));
  lua_pop(L, 1);

  OK("bound again", nauthilus_backend_context_bind_lua(L, context, &why));
  nauthilus_backend_context_release(context);
  run(L, "collectgarbage(); assert(nb.context():selected() == '127.0.0.2')", 0, 0);
  lua_close(L);
  CHECK("a handle outlives the state", header_is(own, 0, "Auth-Server", "127.0.0.4"));
  nauthilus_backend_context_release(own);
  nauthilus_backend_context_release(other);
}

/* Lua without memory: an error of Lua's becomes a status. */
static int memory_left = -1;

static void *scarce(void *user, void *block, size_t before, size_t size) {
  int grows = block == NULL || size > before;
  (void)user;
  if (size == 0) {
    free(block);
    return NULL;
  }
  /* Lua takes for granted that a block can shrink. */
  if (memory_left == 0 && grows)
    return NULL;
  if (memory_left > 0 && grows)
    memory_left--;
  return realloc(block, size);
}

static void starved(void) {
#if LUA_VERSION_NUM >= 505
  lua_State *L = lua_newstate(scarce, NULL, luaL_makeseed(NULL));
#else
  lua_State *L = lua_newstate(scarce, NULL);
#endif
  nauthilus_backend_result *result = NULL;
  nauthilus_backend_context *context = NULL;
  int top;
  if (!L) {
    CHECK("# SKIP this LuaJIT takes no allocator of its host's", 1);
    return;
  }
  luaL_openlibs(L);
  lua_pushcfunction(L, luaopen_nauthilus_backend);
  lua_call(L, 0, 1);
  nauthilus_backend_result_new(&result, NULL);
  nauthilus_backend_context_new(&context, NULL);
  top = lua_gettop(L);
  {
    int granted;
    nauthilus_backend_status status = NAUTHILUS_BACKEND_LUA_ERROR;
    for (granted = 0; status == NAUTHILUS_BACKEND_LUA_ERROR && granted < 100; granted++) {
      memory_left = granted;
      status = nauthilus_backend_context_bind_lua(L, context, NULL);
    }
    CHECK("binding fails or works, wherever memory ends", status == NAUTHILUS_BACKEND_OK && granted > 1);
    nauthilus_backend_context_bind_lua(L, NULL, NULL);
  }
  memory_left = 0;
  STATUS("no memory to push", NAUTHILUS_BACKEND_LUA_ERROR, nauthilus_backend_result_push_lua(L, result, &why));
  CHECK("the reason says so", strstr(why.data, "memory") != NULL);
  STATUS("no memory to bind", NAUTHILUS_BACKEND_LUA_ERROR, nauthilus_backend_context_bind_lua(L, context, &why));
  memory_left = -1;
  CHECK("the stack is as it was", lua_gettop(L) == top);
  {
    /* Also where the stack has to grow: how much room it has differs between Luas. */
    int filled, refused = 0;
    for (filled = 0; filled < 100; filled++) {
      lua_checkstack(L, 1);
      lua_pushnil(L);
      memory_left = 0;
      refused += nauthilus_backend_result_push_lua(L, result, NULL) == NAUTHILUS_BACKEND_LUA_ERROR;
      memory_left = -1;
    }
    CHECK("nor where the stack is full", refused == 100 && lua_gettop(L) == top + 100);
    lua_settop(L, top);
  }
  OK("with memory it works", nauthilus_backend_result_push_lua(L, result, &why));
  nauthilus_backend_result_release(result);
  nauthilus_backend_context_release(context);
  lua_close(L);
}

int main(void) {
  misuse();
  results();
  contexts();
  starved();
  return tap_finish();
}
