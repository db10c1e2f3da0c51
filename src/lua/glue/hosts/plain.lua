-- The adapter of hosts without requests of their own: lua, LuaJIT, HAProxy, Dovecot.

local plain = {}

-- Threads and probes belong to any process that asks for servers.
function plain.may_probe()
  return true
end

return plain
