-- The adapter of HAProxy: that of plain hosts, except that a wait yields to HAProxy's other work.
--
-- `core.msleep` can be called wherever HAProxy lets Lua wait (actions, services, tasks, and while
-- it loads); elsewhere (sample fetches, converters) HAProxy ends the call with "yield not allowed".

local _, parts = ...
local plain = parts.plain
local next, type = next, type

local core = parts.globals.library("core")
if not core or type(core.msleep) ~= "function" or type(core.now) ~= "function" then
  return nil
end
local msleep, core_now = core.msleep, core.now

local haproxy = {}
for name, value in next, plain do
  haproxy[name] = value
end

-- The pause between two polls in milliseconds: a tenth of the time waited so far, from 1 to 50. Most
-- checks complete early, when the pause is short; the share bounds the delay to a tenth of the wait.
local SHORTEST, LONGEST, SHARE = 1, 50, 10

local function now()
  local time = core_now()
  return time.sec * 1000 + time.usec / 1000
end

function haproxy.await(_, poll, _, timeout)
  local started = now()
  while not poll() do
    local waited = now() - started
    local pause = waited / SHARE
    if pause < SHORTEST then
      pause = SHORTEST
    elseif pause > LONGEST then
      pause = LONGEST
    end
    if timeout then
      local left = timeout * 1000 - waited
      if left <= 0 then
        return false
      end
      if pause > left then
        pause = left < 1 and 1 or left
      end
    end
    msleep(pause - pause % 1)
  end
  return true
end

return haproxy
