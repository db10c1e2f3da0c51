-- The adapter of hosts without requests of their own: lua, LuaJIT, HAProxy, Dovecot.

local plain = {}

-- Threads and probes belong to any process that asks for servers.
function plain.may_probe()
  return true
end

-- A child configures for itself; nothing forked from it shares a configuration of its own.
function plain.is_head()
  return false
end

-- Waits until `poll()` is true, by `block(timeout)`, which returns whether it is.
function plain.await(_, _, block, timeout)
  return block(timeout)
end

return plain
