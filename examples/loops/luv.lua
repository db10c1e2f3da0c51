-- A check of a server in libuv's event loop: with luv in any Lua, or in Neovim.
--
--     local check = dofile("luv.lua")
--     check({ protocol = "imap", host = "192.0.2.11", port = 993, tls = true }, function(reason)
--       print(reason or "it works")
--     end)
--     uv.run()

local vim = rawget(_G, "vim")
local uv = vim and (vim.uv or vim.loop) or require("luv")
local nauthilus_backend = require("nauthilus_backend")

-- Begins a check and returns at once. When the check is done, calls done(reason), with nil if the server works.
-- `server` is a table with a target's keys.
return function(server, done)
  local check = nauthilus_backend.start_check(server)
  local poll = uv.new_poll(check:fd())
  poll:start("r", function()
    -- The poll handle must be closed first: the garbage collector closes the descriptor together with the check.
    poll:close()
    done(check:result())
  end)
end
