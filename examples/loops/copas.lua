-- A check of a server in a thread of copas.
--
--     local check = dofile("copas.lua")
--     copas.addthread(function()
--       local reason = check({ protocol = "imap", host = "192.0.2.11", port = 993, tls = true })
--       print(reason or "it works")
--     end)

local copas = require("copas")
local nauthilus_backend = require("nauthilus_backend")

-- Returns the reason why the server does not work, or nil. Other threads of copas run meanwhile. `server`: a
-- table with a target's keys.
return function(server)
  local check = nauthilus_backend.start_check(server)
  -- What copas and LuaSocket's `select` ask of a socket: it can be read once the check has completed.
  copas.receive({
    getfd = function()
      return check:fd()
    end,
    dirty = function()
      return check:done()
    end,
    settimeout = function() end,
    -- Called by copas 1 when the thread ends after this.
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
