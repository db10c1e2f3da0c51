-- A prober that is stopped (a signal, a debugger, a frozen control group) keeps its locks. Others
-- take its part over, and it steps down when it goes on.

local tap = require("tap")
local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

local SIGSTOP, SIGCONT, SIGKILL = 19, 18, 9

local function shell(command)
  local pipe = assert(io.popen(command))
  local output = pipe:read("*a")
  pipe:close()
  return (output:gsub("%s+$", ""))
end

local folder = shell("mktemp -d")

local function pass(seconds)
  tap.eventually(function() return false end, seconds)
end

-- Writes to a file, all the time, whether this process probes and what it sees.
local function watch(nb, path)
  host.alarm(120)
  nb.start()
  tap.eventually(function()
    local status = nb.status()
    local text = { tostring(status.probing), host.now() }
    for _, target in ipairs(status.targets) do
      text[#text + 1] = target.key:match(":(%d+)$") .. "=" .. target.verdict
    end
    local file = assert(io.open(path .. ".new", "w"))
    file:write(table.concat(text, " "), "\n")
    file:close()
    os.rename(path .. ".new", path)
  end, 100)
  host.exit_now(1)
end

-- A child that runs `watch`.
local function watcher(name, nb, fd)
  local path = folder .. "/" .. name
  os.remove(path)
  local pid = host.fork()
  if pid ~= 0 then
    return { pid = pid, path = path }
  end
  -- Only the parent keeps the listener: it is gone when the parent closes it.
  host.close(fd)
  watch(nb, path)
end

local function read(child)
  local file = io.open(child.path)
  local text = file and file:read("*a") or ""
  if file then
    file:close()
  end
  return text
end

local function is_probing(child)
  return read(child):match("^%a+") == "true"
end

local function sees(child, port)
  return read(child):match(port .. "=(%a+)")
end

local function await(child, port, verdict, timeout)
  return tap.eventually(function() return sees(child, port) == verdict end, timeout)
end

local function kill(...)
  for _, child in ipairs({ ... }) do
    if not child.gone then
      host.kill(child.pid, SIGCONT)
      host.kill(child.pid, SIGKILL)
      host.wait(child.pid, 60)
      child.gone = true
    end
  end
end

-- === In shared memory ===

-- The processes are forked from one that only configures, so that the module is never used in the script's
-- own process.
local function sharing_processes(count, body)
  tap.in_child("processes that share a table", 100, function()
    local port, fd = host.listen(1024)
    local nb = require("nauthilus_backend")
    local config = tap.config({ port })
    -- With the PROXY header probes can be counted at the listener.
    config.backend_servers[1].haproxy_v2 = true
    nb.configure(config)
    local children = {}
    for index = 1, count do
      children[index] = watcher("memory" .. index, nb, fd)
    end
    body(children, port, fd)
    kill(unpack(children))
    return true
  end)
end

local function split(children)
  local prober, others = nil, {}
  for _, child in ipairs(children) do
    if is_probing(child) then
      prober = child
    else
      others[#others + 1] = child
    end
  end
  return prober, others
end

local function one_probes(children)
  return tap.eventually(function()
    local count = 0
    for _, child in ipairs(children) do
      count = count + (is_probing(child) and 1 or 0)
    end
    return count == 1
  end)
end

sharing_processes(3, function(children, port, fd)
  tap.check("one of three probes", one_probes(children))
  local prober, others = split(children)
  await(others[1], port, "alive")
  host.kill(prober.pid, SIGSTOP)
  local stopped = host.now()
  host.close(fd)
  tap.check("a server that dies while the prober is stopped is found dead", await(others[1], port, "dead", 20))
  -- A second for the others to notice, and then the time of a probe; 5 s since a busy machine may be late.
  local soon = os.getenv("SOAK") and 1.2 or 5
  tap.check("within a second", host.now() - stopped < soon, host.now() - stopped)
  tap.check("by one of the others", one_probes(others))
  local second = split(others)
  host.kill(prober.pid, SIGCONT)
  tap.check("the one that was stopped steps down", tap.eventually(function()
    return not is_probing(prober) and sees(prober, port) == "dead"
  end))
  pass(0.5)
  tap.check("and the other goes on", is_probing(second) and one_probes(children))
  -- The new prober has the lock of the stopped one, so that its own death is noticed at once.
  pass(0.5)
  kill(second)
  local rest = {}
  for _, child in ipairs(children) do
    if child ~= second then
      rest[#rest + 1] = child
    end
  end
  os.remove(second.path)
  tap.check("when that one dies, another follows", one_probes(rest))
end)

-- A prober that is stopped and continued again and again: there is one prober, and its verdicts are right.
sharing_processes(3, function(children, _, fd)
  one_probes(children)
  for turn = 1, 4 do
    local prober = split(children)
    if prober then
      host.kill(prober.pid, SIGSTOP)
      pass(turn % 2 == 0 and 1.6 or 0.4)
      host.kill(prober.pid, SIGCONT)
    end
    tap.check("one probes after pause " .. turn, one_probes(children))
  end
  pass(0.5)
  local started, count = host.now(), 0
  host.accept(fd)
  local come = tap.eventually(function()
    count = count + host.accept(fd)
    return count >= 20
  end)
  local took = host.now() - started
  -- Intervals vary by 5 %, and a late probe may be followed by one on time; two probers would make twice as many.
  tap.check("a target is then probed once per interval", come and count <= took / 0.05 * 1.06 + 4,
    count .. " probes in " .. took .. " s")
end)

-- Load alone does not make another process take over.
sharing_processes(2, function(children)
  one_probes(children)
  local prober, others = split(children)
  local busy = shell("for i in 1 2 3 4 5 6 7 8; do (exec sh -c 'while :; do :; done') >/dev/null 2>&1 & echo $!; done")
  pass(4)
  tap.check("a prober keeps its part on a busy machine", is_probing(prober) and not is_probing(others[1]),
    read(prober) .. read(others[1]))
  for pid in busy:gmatch("%d+") do
    host.kill(tonumber(pid), SIGKILL)
  end
end)

-- === Through a file ===

-- This part takes long, and does not depend on the Lua version.
if _VERSION == "Lua 5.4" then
  local port, fd = host.listen(1024)
  local function apart(name)
    local path = folder .. "/" .. name
    local pid = host.fork()
    if pid ~= 0 then
      return { pid = pid, path = path }
    end
    host.close(fd)
    local nb = require("nauthilus_backend")
    local config = tap.config({ port }, { state_file = folder .. "/state" })
    config.backend_servers[1].haproxy_v2 = true
    nb.configure(config)
    watch(nb, path)
  end
  local children = { apart("file1") }
  await(children[1], port, "alive")
  children[2], children[3] = apart("file2"), apart("file3")
  tap.check("of three that share a file one probes",
    await(children[2], port, "alive") and await(children[3], port, "alive") and one_probes(children))
  local prober, others = split(children)
  host.kill(prober.pid, SIGSTOP)
  local stopped = host.now()
  host.close(fd)
  tap.check("a server that dies while the prober is stopped is found dead by those that share its file",
    await(others[1], port, "dead", 40) and await(others[2], port, "dead"))
  local soon = os.getenv("SOAK") and 15 or 25
  tap.check("within 15 seconds", host.now() - stopped < soon, host.now() - stopped)
  tap.check("one of them probes for all", one_probes(others))
  host.kill(prober.pid, SIGCONT)
  tap.check("the one that was stopped steps down, and knows what is true", tap.eventually(function()
    return not is_probing(prober) and sees(prober, port) == "dead"
  end), read(prober))
  tap.check("one probes", one_probes(children))
  kill(unpack(children))
end

shell("rm -r " .. folder)
