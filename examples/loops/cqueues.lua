-- A check of a server in a coroutine of cqueues.
--
--     local check = dofile("cqueues.lua")
--     loop:wrap(function()
--       local reason = check({ protocol = "imap", host = "192.0.2.11", port = 993, tls = true })
--       print(reason or "it works")
--     end)

local cqueues = require("cqueues")
local nauthilus_backend = require("nauthilus_backend")

-- Returns nil, or the reason why the server does not work. Other coroutines run meanwhile. `server` is a table
-- with a target's keys.
return function(server)
  local check = nauthilus_backend.start_check(server)
  local descriptor = check:fd()
  while not check:done() do
    cqueues.poll({ pollfd = descriptor, events = "r" })
  end
  -- cqueues must forget the descriptor first: the garbage collector closes it together with the check.
  cqueues.cancel(descriptor)
  return check:result()
end
