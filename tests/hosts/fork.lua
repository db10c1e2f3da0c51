-- Loaded and configured before a fork, the module works in each child.

local tap = require("tap")
local nb = require("nauthilus_backend")

local SIGKILL = 9

local port, listener = host.listen(128)
local other = host.listen(128)
local silent = host.listen(0)
host.fill(silent)

local function verdict(of_port)
  for _, target in ipairs(nb.status().targets) do
    if target.key:match(":" .. of_port .. "$") then
      return target.verdict, target.probes
    end
  end
end

local function probes_more(of_port, count)
  local _, before = verdict(of_port)
  return tap.eventually(function()
    local _, now = verdict(of_port)
    return now >= before + count
  end)
end

-- Configured, not started: nothing runs before the fork, as in nginx's master.
nb.configure(tap.config({ port, silent }))
tap.check("configuring starts no thread", host.count("/proc/self/task") == 1)
tap.in_child("a child of a parent that only configured probes", 10, function()
  return nb.wait_ready(60) and verdict(port) == "alive" and verdict(silent) == "dead" and #nb.get_backend_servers() == 1
end)

-- Started before the fork.
nb.start()
tap.check("the parent has its verdicts", nb.wait_ready(60) and verdict(silent) == "dead")
tap.in_child("a child sees its parent's verdicts at once", 5, function()
  return verdict(port) == "alive" and verdict(silent) == "dead" and #nb.get_backend_servers() == 1
end)
tap.in_child("a child sees what its parent finds out", 10, function()
  return probes_more(port, 3)
end)
tap.in_child("a child makes checks of its own", 10, function()
  return nb.check_backend_connection("127.0.0.1", other, false, false) == nil
end)
tap.in_child("a child may configure for itself", 10, function()
  nb.configure(tap.config({ other }))
  return nb.wait_ready(60) and #nb.get_backend_servers() == 1 and nb.get_backend_servers()[1].port == other
end)
tap.check("which the parent does not notice", #nb.status().targets == 2)
tap.in_child("a grandchild works", 10, function()
  local pid = host.fork()
  if pid == 0 then
    host.exit_now(probes_more(port, 2) and 0 or 1)
  end
  local how, code = host.wait(pid, 60)
  return how == "exit" and code == 0
end)

-- With a check in flight: the thread that makes it does not exist in the child.
local check = nb.start_check("127.0.0.1", silent, false, false, { connect_timeout = "1m" })
tap.in_child("a check that the parent started does not hang its child", 10, function()
  local started = host.now()
  check:wait(25)
  -- A check that hangs takes all of these 25 s; a busy machine may take some of them.
  return host.now() - started < 15 and type(check:result()) == "string"
end)
check:cancel()

-- Many children together make no more probes than one process would.
do
  local children = {}
  for index = 1, 8 do
    local pid = host.fork()
    if pid == 0 then
      nb.get_backend_servers()
      tap.eventually(function() return false end, 30)
      host.exit_now(0)
    end
    children[index] = pid
  end
  -- The time covers both counts: this process may be interrupted between a count and a clock.
  local started = host.now()
  local _, before = verdict(port)
  probes_more(port, 20)
  local _, after = verdict(port)
  local elapsed = host.now() - started
  local expected = elapsed / 0.05
  tap.check("nine processes probe a target once per interval", after - before <= expected * 1.2 + 2,
    after - before .. " probes where " .. expected .. " were due")
  for _, pid in ipairs(children) do
    host.kill(pid, SIGKILL)
    host.wait(pid, 60)
  end
end

-- The process that probes is killed: another takes over within one fast_interval (50 ms), and
-- what it then finds out is the truth.
do
  local child_probes, taken, after = true, true, math.huge
  -- A busy machine delays one attempt, and not five.
  for _ = 1, 5 do
    nb.stop()
    local first = host.fork()
    if first == 0 then
      nb.start()
      tap.eventually(function() return false end, 30)
      host.exit_now(0)
    end
    child_probes = child_probes and probes_more(port, 3)
    nb.start()
    host.kill(first, SIGKILL)
    host.wait(first, 60)
    local killed = host.now()
    taken = probes_more(port, 1) and nb.status().probing and taken
    after = math.min(after, host.now() - killed)
    if after <= 0.4 then
      break
    end
  end
  tap.check("a child of a stopped parent probes when told to", child_probes)
  tap.check("another process takes over", taken, "after " .. after .. " s")
  tap.check("within an interval", after <= 0.4, after .. " s")
end

-- A parent that reads its configuration again while its children serve the one before, and does not probe.
local function configures_again(has_probed)
  local first, second = host.listen(1024), host.listen(1024)
  local files = {}
  for index = 1, 2 do
    files[index] = os.tmpname()
    os.remove(files[index])
  end
  local function tell(index)
    assert(io.open(files[index], "w")):close()
  end
  local function told(index)
    return tap.eventually(function()
      local file = io.open(files[index])
      return file and file:close()
    end)
  end

  nb.configure(tap.config({ first }))
  if has_probed then
    nb.start()
    nb.stop()
    -- Its engine thread ends a moment later, and would still take a configuration.
    assert(tap.eventually(function() return host.count("/proc/self/task") == 1 end))
  end
  local old = host.fork()
  if old == 0 then
    nb.start()
    local well = nb.wait_ready(60) and tap.eventually(function() return nb.status().probing end)
    tell(1)
    well = told(2) and well and probes_more(first, 5) and nb.status().probing and #nb.status().targets == 1
    if well then
      tell(1)
    end
    if tap.eventually(function() return not nb.status().probing end) then
      tell(1)
    end
    tap.eventually(function() return false end, 30)
    host.exit_now(0)
  end
  local function proceed()
    local well = told(1)
    os.remove(files[1])
    return well
  end
  assert(proceed())
  nb.configure(tap.config({ first, second }, { connect_interval = "60ms", initial_state = "dead" }))
  tell(2)
  assert(proceed(), "probes after the parent has configured")
  local new = host.fork()
  if new == 0 then
    nb.start()
    local at_once = verdict(first) == "alive"
    local probes = nb.wait_ready(60) and tap.eventually(function() return nb.status().probing end)
    host.exit_now(at_once and probes and #nb.get_backend_servers() == 2 and probes_more(second, 3) and 0 or 1)
  end
  local how, code = host.wait(new, 60)
  local went_on = proceed()
  host.kill(old, SIGKILL)
  host.wait(old, 60)
  os.remove(files[2])
  return how == "exit" and code == 0 and went_on
end
local serve_on = "children serve on while their parent only configures again, until a new child probes"
tap.in_child(serve_on, 60, function() return configures_again(false) end)
tap.in_child(serve_on .. " (the parent has probed before)", 60, function() return configures_again(true) end)

host.close(listener)
tap.check("and finds a dead server", tap.eventually(function()
  return verdict(port) == "dead"
end))
-- A child that waited for its probes would take a minute to exit.
tap.in_child("a child exits without delay while probes are in flight", 4, function()
  nb.configure(tap.config({ silent }, { connect_timeout = "1m" }))
  nb.get_backend_servers()
  return true
end)
