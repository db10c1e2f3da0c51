-- The user has reached the limit of threads while the engine runs: helper threads that are refused then are started
-- once there is room again. few_threads.c refuses them.

local tap = require("tap")
local nb = require("nauthilus_backend")

local folder = arg[4]
local refusing, state, log = os.getenv("THREADS_FAIL"), folder .. "/few_threads", folder .. "/few_threads.log"
local port, fd = host.listen(128)

local function read(path)
  local file = io.open(path, "rb")
  local content = file and file:read("*a") or ""
  if file then
    file:close()
  end
  return content
end

local function has_thread(name)
  local pipe = assert(io.popen("cat /proc/" .. nb.status().pid .. "/task/*/comm 2>/dev/null"))
  local names = pipe:read("*a")
  pipe:close()
  return names:find(name, 1, true)
end

-- The log has its thread as soon as it has a line.
local settings = { log = log, connect_interval = "1h" }
nb.configure(tap.config({ port }, settings))
tap.check("the engine runs", nb.wait_ready(30) and tap.eventually(function() return has_thread("nb-log") end))

assert(io.open(refusing, "w")):close()
settings.state_file = state
nb.configure(tap.config({ port }, settings))
tap.check("a thread that is refused is in status()", tap.eventually(function()
  return (nb.status().error or ""):find("cannot start the thread nb-", 1, true)
end), nb.status().error)
tap.check("and in the log", tap.eventually(function()
  local lines = read(log)
  return lines:find("error event=thread_not_started thread=nb-state reason=\"", 1, true)
    and lines:find("error event=thread_not_started thread=nb-wake reason=\"", 1, true)
end), read(log))

os.remove(refusing)
tap.check("the state file is written when there is room again", tap.eventually(function()
  return read(state):find("verdict=alive", 1, true)
end))
tap.check("and reports wake the engine", tap.eventually(function() return has_thread("nb-wake") end))
host.close(fd)
nb.report_failure("127.0.0.1", port)
tap.check("which probes", tap.eventually(function() return nb.status().targets[1].verdict == "dead" end))
tap.check("no error is left", tap.eventually(function() return nb.status().error == nil end), nb.status().error)
local _, lines = read(log):gsub("thread_not_started", "")
tap.check("each thread was logged once", lines == 2, read(log))
