--- TAP for scripts that run in host.c: `tap.check(name, condition, detail)`; a script that
-- raises is reported by the host.

local host = host

local tap = { prefix = arg[0]:match("([^/]+)%.lua$") .. ": " }

--- Reports one check.
function tap.check(name, condition, detail)
  io.write(condition and "ok" or "not ok", " - ", tap.prefix, name, "\n")
  if not condition and detail ~= nil then
    io.write("# ", (tostring(detail):gsub("\n", "\n# ")), "\n")
  end
  io.flush()
end

--- Calls `condition` until it gives something true, at most `timeout` seconds (30), and returns that.
function tap.eventually(condition, timeout)
  local deadline = host.now() + (timeout or 30)
  while true do
    local value = condition()
    if value or host.now() > deadline then
      return value
    end
    host.nap()
  end
end

--- Runs `fn` in a child process; checks that it returned true there, within `timeout` seconds, or
--- 30 where a busy machine may need longer than that.
function tap.in_child(name, timeout, fn)
  local pid = host.fork()
  if pid == 0 then
    local ok, result = pcall(fn)
    if not ok then
      io.write("# in the child: ", tostring(result), "\n")
      io.flush()
    end
    host.exit_now(ok and result and 0 or 1)
  end
  local how, code = host.wait(pid, math.max(timeout, 30))
  tap.check(name, how == "exit" and code == 0, how .. " " .. code)
end

--- Files of the host's, at the numbers that it has closed.
function tap.open_files()
  local files = {}
  for index = 1, 60 do
    local file = assert(io.tmpfile())
    file:setvbuf("no")
    file:write("mine ", index)
    files[index] = file
  end
  return files
end

--- Whether these files are open and hold what the host wrote; raises if not.
function tap.untouched(files)
  for index, file in ipairs(files) do
    assert(file:seek("set"), index .. " was closed")
    local content, reason = file:read("*a")
    local found = ("%q"):format(tostring(content))
    assert(content == "mine " .. index, index .. " holds " .. found .. " " .. tostring(reason))
  end
  return true
end

--- What must not grow: threads, descriptors, and resident memory in kB.
function tap.resources()
  local file = assert(io.open("/proc/self/statm"))
  local resident = tonumber(file:read("*a"):match("^%d+ (%d+)")) * 4
  file:close()
  return { threads = host.count("/proc/self/task"), descriptors = host.count("/proc/self/fd"), memory = resident }
end

--- Checks that nothing has grown since `before`; threads that are ending get time to end.
function tap.no_growth(name, before, memory_kb)
  local now
  tap.eventually(function()
    now = tap.resources()
    return now.threads <= before.threads and now.descriptors <= before.descriptors
  end)
  for _, what in ipairs({ "threads", "descriptors" }) do
    tap.check(name .. ": no more " .. what, now[what] <= before[what], before[what] .. " -> " .. now[what])
  end
  tap.check(name .. ": no more memory", now.memory <= before.memory + memory_kb,
    before.memory .. " -> " .. now.memory .. " kB")
end

--- A configuration that probes the ports every 50 ms and logs nothing.
function tap.config(ports, overrides)
  local config = {
    connect_interval = "50ms", fast_interval = "50ms", connect_timeout = "500ms", log = "none", backend_servers = {},
  }
  for index, port in ipairs(ports) do
    config.backend_servers[index] = { protocol = "imap", host = "127.0.0.1", port = port }
  end
  for key, value in pairs(overrides or {}) do
    config[key] = value
  end
  return config
end

return tap
