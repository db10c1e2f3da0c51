-- /etc/powerdns/recursor.lua: the PowerDNS Recursor answers a name with the addresses of the servers that are alive.
-- In recursor.conf: lua-dns-script=/etc/powerdns/recursor.lua
-- The module: `make LUA=luajit install-module`

local nauthilus_backend = require("nauthilus_backend")

-- Each thread of the Recursor loads this file; the process has one engine for all of them.
nauthilus_backend.configure("/etc/nauthilus_backend.yml")
nauthilus_backend.start()

-- Name in DNS -> protocol of the servers whose addresses it gets.
local names = { ["imap.example.org."] = "imap", ["pop.example.org."] = "pop3" }
-- How many seconds clients may cache an answer. After a server has died they may use its address for that long.
local TTL = 5

function preresolve(query)
  local protocol = names[query.qname:toString():lower()]
  if not protocol or query.qtype ~= pdns.A then
    return false
  end
  for _, server in ipairs(nauthilus_backend.get_backend_servers()) do
    if server.protocol == protocol and not server.ip:find(":", 1, true) then
      query:addAnswer(pdns.A, server.ip, TTL)
    end
  end
  return true
end
