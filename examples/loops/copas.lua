-- A check of a server in a thread of copas.
--
--     local check = dofile("copas.lua")
--     copas.addthread(function()
--       local reason = check({ protocol = "imap", host = "192.0.2.11", port = 993, tls = true })
--       print(reason or "it works")
--     end)

local copas = require("copas")
local nauthilus_backend = require("nauthilus_backend")

-- Returns nil, or the reason why the server does not work. Other threads of copas run meanwhile. `server` is a
-- table with a target's keys.
return function(server)
  local check = nauthilus_backend.start_check(server)
  -- An object that copas and LuaSocket's `select` accept as a socket; it becomes readable when the check is done.
  copas.receive({
    getfd = function()
      return check:fd()
    end,
    dirty = function()
      return check:done()
    end,
    settimeout = function() end,
    -- Copas 1 calls this when the thread ends.
    close = function() end,
    receive = function()
      if check:done() then
        return "done"
      end
      return nil, "timeout"
    end,
  })
  return check:result()
end
