-- Compares two functions by the CPU time of a call: `dofile("benches/compare.lua")(seconds)` returns
-- a function of both, which takes about so many seconds for each of them.

local ROUNDS = 5

local clock = os.clock

-- Keeps the result of the last call: LuaJIT removes a table that nothing refers to.
local kept = {} -- luacheck: ignore

-- CPU seconds of `count` calls.
local function time(fn, count)
  local started = clock()
  for _ = 1, count do
    kept[1] = fn()
  end
  return clock() - started
end

-- How many calls take as long as one measurement. Finding that out also warms up the compiler.
local function calibrate(fn, seconds)
  local count = 1
  while true do
    local elapsed = time(fn, count)
    if elapsed > seconds / 10 then
      return math.ceil(count * (seconds / ROUNDS) / elapsed)
    end
    count = count * 2
  end
end

-- Nanoseconds per call of each of two functions.
local function compare(ours, theirs, seconds)
  local counts = { calibrate(ours, seconds), calibrate(theirs, seconds) }
  local best = { math.huge, math.huge }
  for _ = 1, ROUNDS do
    for index, fn in ipairs({ ours, theirs }) do
      collectgarbage()
      best[index] = math.min(best[index], time(fn, counts[index]) / counts[index])
    end
  end
  return best[1] * 1e9, best[2] * 1e9
end

return function(seconds)
  return function(ours, theirs)
    return compare(ours, theirs, seconds)
  end
end
