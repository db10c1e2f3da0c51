-- Errors for wrong arguments: a string that begins with the script's file and line.
--
-- Levels of `error`: 1 is the function here, 2 the function of the API that calls it, 3 the script. `up`
-- is the number of further functions of this module between the two (0 if omitted). Nothing here may be
-- a tail call, which removes a level and so gives the wrong position.

local error, type, tostring = error, type, tostring
local format, gsub, sub = string.format, string.gsub, string.sub
local byte = string.byte

local errors = {}

-- The number of bytes of a caller's string that an error repeats.
local LONGEST_SHOWN = 64

local function escaped(char)
  return format("\\%d", byte(char))
end

-- A value as an error shows it: a number, or a string (escaped and cut); of other values the type.
function errors.show(value)
  local kind = type(value)
  if kind == "number" then
    if value % 1 == 0 and value > -1e15 and value < 1e15 then
      return format("%.0f", value)
    end
    return tostring(value)
  elseif kind == "string" then
    local text = value
    if #text > LONGEST_SHOWN then
      text = sub(text, 1, LONGEST_SHOWN) .. "..."
    end
    return '"' .. gsub(text, "[%c\127-\255\"\\]", escaped) .. '"'
  end
  return kind
end

-- "bad argument #2 to 'select_backend_server' (why)"
function errors.bad_argument(index, name, why, up)
  error(format("bad argument #%d to '%s' (%s)", index, name, why), 3 + (up or 0))
end

-- The same with the reason "WANTED expected, got TYPE", the type of the given value.
function errors.wrong_type(index, name, wanted, value, up)
  local why = wanted .. " expected, got " .. type(value)
  error(format("bad argument #%d to '%s' (%s)", index, name, why), 3 + (up or 0))
end

-- The same with the given value instead of its type; not for values that may be secret.
function errors.wrong_value(index, name, wanted, value, up)
  local why = wanted .. " expected, got " .. errors.show(value)
  error(format("bad argument #%d to '%s' (%s)", index, name, why), 3 + (up or 0))
end

-- A method called with a dot, or on a value of another class.
function errors.bad_self(name, class, value, up)
  local why = format("%s expected, got %s; call it with ':'", class, type(value))
  error(format("bad self in '%s' (%s)", name, why), 3 + (up or 0))
end

-- Any other error: "NAME: WHY".
function errors.raise(name, why, up)
  error(name .. ": " .. why, 3 + (up or 0))
end

return errors
