-- Nothing that the module writes or opens raises a signal in its host or holds it up: a limit on
-- the size of files, a standard error that nobody reads, a FIFO where a file is expected.

local tap = require("tap")
local nb = require("nauthilus_backend")

local port = host.listen(4096)

local function temporary(content)
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(content or "")
  file:close()
  return path
end

local function works()
  return nb.wait_ready(60) and #nb.get_backend_servers() == 1
end

for _, limit in ipairs({ 0, 32768 }) do
  tap.in_child("a host whose files may have " .. limit .. " bytes is not killed, and probes", 20, function()
    host.limit_file_size(limit)
    nb.configure(tap.config({ port }))
    return works()
  end)
end

local state, log = temporary(), temporary()
tap.in_child("nor where a state file and a log are larger than allowed", 20, function()
  host.limit_file_size(0)
  nb.configure(tap.config({ port }, { state_file = state, log = log }))
  return works()
end)

-- A damaged content is logged on the thread that configures.
local garbage = temporary("nauthilus_backend state 2, damaged\n")
tap.in_child("nor one whose standard error nobody reads", 20, function()
  host.break_stderr()
  nb.configure(tap.config({ port }, { state_file = garbage, log = "stderr" }))
  return works()
end)

local fifo = os.tmpname()
os.remove(fifo)
assert(os.execute("mkfifo " .. fifo))
tap.in_child("a FIFO that nobody reads is refused as a log at once", 10, function()
  local ok, reason = pcall(nb.configure, tap.config({ port }, { log = fifo }))
  return not ok and reason:find("log: cannot append to " .. fifo, 1, true) ~= nil
end)
tap.in_child("one that somebody reads is a log", 20, function()
  -- Opened for reading and writing, so that opening the FIFO does not wait for another process.
  local both = assert(io.open(fifo, "r+"))
  nb.configure(tap.config({ 1 }, { log = fifo }))
  return nb.wait_ready(60) and both:read("*l"):find("event=", 1, true) ~= nil
end)

for _, path in ipairs({ state, log, garbage, fifo }) do
  os.remove(path)
end
