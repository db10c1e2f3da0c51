-- A host that closes every descriptor while names are looked up, and opens files of its own: no look-up reaches them.
-- open_look_ups.c stands for the C library.

local tap = require("tap")
local nb = require("nauthilus_backend")

local alive, looked_up = assert(tonumber(arg[1])), os.getenv("LOOKED_UP")

local function exists(path)
  local found = io.open(path)
  return found and found:close()
end

local file = assert(io.open("/proc/sys/kernel/osrelease"))
local release = file:read("*l")
file:close()
local major, minor = release:match("^(%d+)%.(%d+)")
if tonumber(major) * 1000 + tonumber(minor) < 5009 then
  print("ok - closed_look_ups: # SKIP Linux " .. release .. " has no close_range")
  return
end

tap.in_child("a look-up uses no descriptor of the host's", 60, function()
  local function check(name)
    return nb.start_check(name, alive, false, true, { tls_skip_verify = true })
  end
  for _, name in ipairs({ "localhost", "LOCALHOST" }) do
    for _, ending in ipairs({ "", ".begun", ".goes" }) do
      os.remove(looked_up .. ending)
    end
    local before = check(name)
    assert(tap.eventually(function() return exists(looked_up .. ".begun") end))
    host.close_all()
    local files = tap.open_files()
    assert(not exists(looked_up))
    assert(io.open(looked_up .. ".goes", "w")):close()
    assert(tap.eventually(function() return exists(looked_up) end), "the look-up does not end")
    assert(tap.untouched(files))
    assert(before:wait(60))
    for _, own in ipairs(files) do
      own:close()
    end
    local after = check(name:sub(1, 5) .. name:sub(6):lower())
    assert(after:wait(60) and after:result() == nil, after:result())
  end
  return true
end)
