-- mod_mail_servers.lua, a module of Prosody that lists the mail servers that are alive, as JSON, at
-- http://localhost:5280/mail_servers. Copy this file to a folder in `plugin_paths`, and add "mail_servers" to
-- `modules_enabled`. Install nauthilus_backend with `make LUA=5.4 install-module`.
--
-- Prosody listens for HTTP on this machine alone, but for HTTPS (port 5281) on all addresses. So that the list stays
-- private, set in prosody.cfg.lua, if nothing else of Prosody needs HTTPS: https_ports = { }
-- or else: https_interfaces = { "127.0.0.1" }

local array = require("util.array")
local json = require("util.json")
local nauthilus_backend = require("nauthilus_backend")

module:depends("http")

nauthilus_backend.configure(module:get_option_string("mail_servers_file", "/etc/nauthilus_backend.yml"))
nauthilus_backend.start()

module:provides("http", {
  route = {
    GET = function(event)
      -- An empty table would become `{}`.
      local alive = array()
      for index, server in ipairs(nauthilus_backend.get_backend_servers()) do
        alive[index] = { protocol = server.protocol, ip = server.ip, port = server.port }
      end
      event.response.headers.content_type = "application/json"
      return json.encode({ alive = alive })
    end,
  },
})
