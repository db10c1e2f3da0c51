-- The same host as host.c, in LuaJIT: it calls the C functions through the FFI, and runs the script in a separate
-- Lua state.
--
--     luajit examples/c/host.lua build/luajit/nauthilus_backend.so config.yml script.lua

local ffi = require("ffi")

local module, config, script = assert(arg[1]), assert(arg[2]), assert(arg[3])

-- The part of the header between the two marks, unchanged.
local header = assert(io.open(os.getenv("NAUTHILUS_BACKEND_HEADER") or "include/nauthilus_backend.h")):read("*a")
ffi.cdef(assert(header:match("/%* >>> ffi%.cdef.-/%* <<< ffi%.cdef %*/")))
ffi.cdef([[
  struct lua_State *luaL_newstate(void);
  void luaL_openlibs(struct lua_State *L);
  void lua_close(struct lua_State *L);
  int luaL_loadfile(struct lua_State *L, const char *path);
  int lua_pcall(struct lua_State *L, int arguments, int results, int handler);
  const char *lua_tolstring(struct lua_State *L, int index, size_t *length);
  void lua_pushcclosure(struct lua_State *L, int (*f)(struct lua_State *), int upvalues);
  void lua_getfield(struct lua_State *L, int index, const char *name);
  void lua_setfield(struct lua_State *L, int index, const char *name);
  void lua_settop(struct lua_State *L, int index);
  int luaopen_nauthilus_backend(struct lua_State *L);
]])
local GLOBALS = -10002

local lua, lib = ffi.C, ffi.load(module)
assert(lib.nauthilus_backend_abi_version() == 1, "another version of the header is needed")

local reason = ffi.new("nauthilus_backend_string")

-- Returns the text of a string, and releases the string.
local function taken(string)
  local text = ffi.string(string.data, string.size)
  lib.nauthilus_backend_string_release(string)
  return text
end

local function need(status)
  if status ~= lib.NAUTHILUS_BACKEND_OK then
    error(taken(reason), 2)
  end
end

need(lib.nauthilus_backend_configure_file(config, #config, reason))
need(lib.nauthilus_backend_wait_ready(10000, reason))

local servers = ffi.new("nauthilus_backend_servers *[1]")
local count = ffi.new("size_t[1]")
need(lib.nauthilus_backend_servers_acquire(servers, reason))
need(lib.nauthilus_backend_servers_count(servers[0], count, reason))
print(tonumber(count[0]) .. " alive")
local server = ffi.new("nauthilus_backend_server")
for index = 0, tonumber(count[0]) - 1 do
  need(lib.nauthilus_backend_servers_at(servers[0], index, server, ffi.sizeof(server), reason))
  print(ffi.string(server.protocol.data) .. " " .. ffi.string(server.ip.data, server.ip.size) .. " " .. server.port)
end
lib.nauthilus_backend_servers_release(servers[0])

local context = ffi.new("nauthilus_backend_context *[1]")
need(lib.nauthilus_backend_context_new(context, reason))
-- The finalizer keeps a reference to `lib`, so that the library is not unloaded before the handle is released.
local owned = ffi.gc(context[0], function(handle)
  lib.nauthilus_backend_context_release(handle)
end)

local L = lua.luaL_newstate()

local function fail()
  error(ffi.string(lua.lua_tolstring(L, -1, nil)), 0)
end

-- Calls the function on top of the stack, which then has its result.
local function call()
  if lua.lua_pcall(L, 0, 1, 0) ~= 0 then
    fail()
  end
end

lua.luaL_openlibs(L)
lua.lua_getfield(L, GLOBALS, "package")
lua.lua_getfield(L, -1, "loaded")
lua.lua_pushcclosure(L, lib.luaopen_nauthilus_backend, 0)
call()
lua.lua_setfield(L, -2, "nauthilus_backend")
lua.lua_settop(L, 0)
need(lib.nauthilus_backend_context_bind_lua(L, owned, reason))
if lua.luaL_loadfile(L, script) ~= 0 then
  fail()
end
call()
local result = ffi.new("nauthilus_backend_result *[1]")
need(lib.nauthilus_backend_result_from_lua(L, -1, result, reason))
lua.lua_close(L)

-- Both handles stay valid after the state was closed.
local name, value = ffi.new("nauthilus_backend_string"), ffi.new("nauthilus_backend_string")
need(lib.nauthilus_backend_result_attribute_value_at(result[0], "hostip", 6, 0, nil, value, reason))
print("the script says hostip " .. taken(value))
lib.nauthilus_backend_result_release(result[0])
need(lib.nauthilus_backend_context_header_count(owned, count, reason))
for index = 0, tonumber(count[0]) - 1 do
  need(lib.nauthilus_backend_context_header_at(owned, index, name, value, reason))
  print(taken(name) .. ": " .. taken(value))
end
