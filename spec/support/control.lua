--- Starts a helper process (control.py says what it speaks) and talks to it. It needs nothing of
-- the module under test, and ends when this process does.

local socket = require("socket")

local control = {}
control.__index = control

local function encode(text)
  return (tostring(text):gsub("[^%w%-_%./]", function(char)
    return string.format("%%%02X", char:byte())
  end))
end

local function decode(text)
  return (text:gsub("%%(%x%x)", function(hex)
    return string.char(tonumber(hex, 16))
  end))
end

--- Starts `program`, a file of spec/support.
function control.start(program)
  local listener = assert(socket.bind("127.0.0.1", 0))
  local _, port = listener:getsockname()
  -- The pipe ends the helper: it closes when this process ends, however it ends.
  local pipe = assert(io.popen(string.format("exec python3 spec/support/%s %d", program, port), "w"))
  listener:settimeout(20)
  local channel, err = listener:accept()
  listener:close()
  if not channel then
    error(program .. " did not start: " .. err)
  end
  channel:setoption("tcp-nodelay", true)
  return setmetatable({ program = program, channel = channel, pipe = pipe }, control)
end

--- Sends one request and returns the answer's values; raises what the helper reports.
function control:call(command, values)
  local words = { command }
  for key, value in pairs(values or {}) do
    words[#words + 1] = key .. "=" .. encode(value)
  end
  assert(self.channel:send(table.concat(words, " ") .. "\n"))
  local line = assert(self.channel:receive("*l"))
  local status, rest = line:match("^(%S+) ?(.*)$")
  local answer = {}
  for key, value in rest:gmatch("(%S-)=(%S*)") do
    answer[key] = decode(value)
  end
  if status ~= "ok" then
    error(self.program .. ": " .. command .. ": " .. tostring(answer.text), 0)
  end
  return answer
end

--- Ends the helper and what it started, and waits until it has.
function control:stop()
  self.channel:close()
  self.pipe:close()
end

return control
