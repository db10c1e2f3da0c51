-- How misuse is reported: a string that begins with the caller's file and line.
--
-- Every function here is called by a function of the API, which a script calls: level 1 is the
-- function here, 2 the function of the API, 3 the script. `up` counts the functions of ours in
-- between (0 when left out). No tail calls: they would take a level away.

local error, type, tostring = error, type, tostring
local format, gsub, sub = string.format, string.gsub, string.sub
local byte, floor = string.byte, math.floor

local errors = {}

-- The longest part of a caller's string that is repeated in an error.
local LONGEST_SHOWN = 64

local function escaped(char)
  return format("\\%d", byte(char))
end

-- A value as an error shows it: numbers and short strings as they are, else the type.
function errors.show(value)
  local kind = type(value)
  if kind == "number" then
    if value == floor(value) and value > -1e15 and value < 1e15 then
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

-- The same with "wanted expected, got …", the type of what was given.
function errors.wrong_type(index, name, wanted, value, up)
  local why = wanted .. " expected, got " .. type(value)
  error(format("bad argument #%d to '%s' (%s)", index, name, why), 3 + (up or 0))
end

-- The same with the value that was given, for what must not be a secret.
function errors.wrong_value(index, name, wanted, value, up)
  local why = wanted .. " expected, got " .. errors.show(value)
  error(format("bad argument #%d to '%s' (%s)", index, name, why), 3 + (up or 0))
end

-- A method called with a dot, or on something else.
function errors.bad_self(name, class, value, up)
  local why = format("%s expected, got %s; call it with ':'", class, type(value))
  error(format("bad self in '%s' (%s)", name, why), 3 + (up or 0))
end

-- Any other text: "name: why".
function errors.raise(name, why, up)
  error(name .. ": " .. why, 3 + (up or 0))
end

return errors
