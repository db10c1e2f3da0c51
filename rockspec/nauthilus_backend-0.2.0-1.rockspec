rockspec_format = "3.0"
package = "nauthilus_backend"
version = "0.2.0-1"
source = {
  -- What `make dist` packs; LuaRocks wants it in the working directory.
  url = "file://nauthilus_backend-0.2.0.tar.gz",
}
description = {
  summary = "Tells any Lua host which mail and web backends are alive",
  detailed = [[
    A native module that probes mail and web servers from a background thread (TCP, PROXY
    protocol, TLS, protocol dialogues) and lets scripts choose a living one for each login.
    For OpenResty, plain Lua 5.1 to 5.5, LuaJIT and hosts that embed them.]],
  license = "MIT OR Apache-2.0",
  labels = { "imap", "health-check", "mail", "openresty", "proxy" },
}
supported_platforms = { "linux" }
dependencies = { "lua >= 5.1, < 5.6" }
build = {
  type = "make",
  build_target = "rock",
  install_target = "install-rock",
  -- The Makefile asks the interpreter which Lua it is: LuaRocks calls LuaJIT 5.1.
  build_variables = { LUA = "$(LUA)" },
  install_variables = { LUA = "$(LUA)", LIBDIR = "$(LIBDIR)", LUADIR = "$(LUADIR)", BINDIR = "$(BINDIR)" },
}
test = { type = "command", command = "make test" }
