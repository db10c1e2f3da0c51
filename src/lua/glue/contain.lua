-- What the natives that `mlua` makes raise is a userdata: a value that does not convert, a
-- panic. None of it is for a caller to cause; should it happen, the caller gets a string. Not
-- for natives on the request path, which cannot fail.

local native = ...
local error, ipairs, match, next, pcall, tostring = error, ipairs, string.match, next, pcall, tostring

local function finish(ok, ...)
  if ok then
    return ...
  end
  error("nauthilus_backend: internal error: " .. match(tostring((...)), "^[^\n]*"), 0)
end

local contain = { natives = {} }

function contain.contained(fn)
  return function(...)
    return finish(pcall(fn, ...))
  end
end

for _, name in ipairs(native.cold) do
  native[name] = contain.contained(native[name])
  contain.natives[name] = native[name]
end

for name, fn in next, native.nginx or {} do
  native.nginx[name] = contain.contained(fn)
end

return contain
