-- The Lua of the module and of its tests runs in all five Luas.
std = "min"
max_line_length = 120

-- What `require "nauthilus_backend"` defines, as scripts written for Nauthilus expect it.
local module_globals = { "dynamic_loader", "nauthilus_backend", "nauthilus_backend_result" }

files["src/lua"] = { std = "min", read_globals = { "jit", "ngx" } }
files["src/lua/ngx.lua"] = { std = "ngx_lua" }
files["spec"] = { std = "min+busted", read_globals = { "jit", "dynamic_loader", "nauthilus_backend_result" } }
files["examples"] = { read_globals = module_globals }
files["examples/openresty"] = { std = "ngx_lua", read_globals = module_globals }
files["examples/dovecot"] = { read_globals = { "dovecot" }, globals = { "script_init", "auth_passdb_lookup" } }
files["examples/haproxy"] = { read_globals = { "core" } }
files["examples/others/auth_http.lua"] = { globals = { "lighty" } }
files["examples/others/recursor.lua"] = { read_globals = { "pdns" }, globals = { "preresolve" } }
files["examples/others/rspamd.local.lua"] = { read_globals = { "rspamd_config" } }
files["examples/others/mod_mail_servers.lua"] = { read_globals = { "module" } }
files["benches"] = { read_globals = { "jit", "dynamic_loader", "nauthilus_backend_result" } }
files["tests"] = { read_globals = { "host", "jit", "dynamic_loader", "nauthilus_backend_result" } }
files["library"] = { ignore = { "21.", "241", "131", "111", "112", "113" } }
-- What runs inside Redis, in its Lua 5.1. The text of common.lua comes before each of the other files.
files["src/engine/cluster/scripts"] = {
  std = "lua51",
  read_globals = {
    "redis", "KEYS", "ARGV",
    "NAMELESS", "NEVER", "USERS", "MACHINES", "STORE", "answer", "count_in", "count_out", "digits", "drop_if_over",
    "keep_home", "last_generation", "living_machines", "next_generation", "note_generation", "now", "now_us", "read",
    "read_or_remembered", "set_end", "write", "write_home", "write_if_room",
  },
}
files["src/engine/cluster/scripts/common.lua"] = { ignore = { "211", "431" } }
files["**/*.rockspec"] = { std = "rockspec" }
files[".luacheckrc"] = { std = "luacheckrc", ignore = { "131" } }
files[".busted"] = { std = "min" }
