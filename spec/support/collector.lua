-- The collector's parameters, whose names differ between versions of Lua.

local collector = {}

-- `name`: pause or stepmul, in per cent.
function collector.set(name, value)
  -- Lua 5.5; the others refuse the option.
  if not pcall(collectgarbage, "param", name, value) then
    collectgarbage("set" .. name, value)
  end
end

return collector
