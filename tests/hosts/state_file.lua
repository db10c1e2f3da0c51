-- The state file: kept across restarts, shared by processes that no fork relates, and whatever
-- may happen to it in between. This process loads the module nowhere but in children.

local tap = require("tap")

local SIGKILL = 9

local function shell(command)
  local pipe = assert(io.popen(command))
  local output = pipe:read("*a")
  pipe:close()
  return (output:gsub("%s+$", ""))
end

local folder = shell("mktemp -d")

local function read(path)
  local file = io.open(path, "rb")
  local content = file and file:read("*a")
  if file then
    file:close()
  end
  return content
end

local function write(path, content)
  local file = assert(io.open(path, "wb"))
  file:write(content)
  file:close()
end

local function path_of(name)
  return folder .. "/" .. name
end

-- Targets that are sent a PROXY header: their connections can be counted where they arrive.
local function config(state, ports, overrides)
  local all = { state_file = path_of(state), state_max_age = "2s" }
  for key, value in pairs(overrides or {}) do
    all[key] = value
  end
  local made = tap.config(ports, all)
  for _, server in ipairs(made.backend_servers) do
    server.haproxy_v2 = true
  end
  return made
end

local function verdicts(nb)
  local found = {}
  for _, target in ipairs(nb.status().targets) do
    found[tonumber(target.key:match(":(%d+)$"))] = target.verdict
  end
  return found
end

-- === A family of its own: a child that says all the time what it sees ===

local Family = {}
Family.__index = Family

local function family(name, settings)
  local self = setmetatable({ path = path_of(name), name = name }, Family)
  os.remove(self.path)
  self.pid = host.fork()
  if self.pid ~= 0 then
    return self
  end
  -- Listeners are the parent's alone: they are gone when it closes them.
  host.close_all()
  local ok, problem = pcall(function()
    local nb = require("nauthilus_backend")
    nb.configure(settings)
    nb.start()
    tap.eventually(function()
      local status = nb.status()
      local text = { tostring(status.probing) }
      for _, target in ipairs(status.targets) do
        text[#text + 1] = target.key:match(":(%d+)$") .. "=" .. target.verdict
      end
      write(self.path .. ".new", table.concat(text, " ") .. "\n")
      os.rename(self.path .. ".new", self.path)
      local port = read(self.path .. ".report")
      if port then
        os.remove(self.path .. ".report")
        nb.report_failure("127.0.0.1", tonumber(port))
      end
    end, 60)
  end)
  io.write("# ", name, " ended: ", tostring(problem or ok), "\n")
  host.exit_now(1)
end

function Family:sees(port)
  return (read(self.path) or ""):match(port .. "=(%a+)")
end

function Family:is_probing()
  return (read(self.path) or ""):match("^%a+") == "true"
end

function Family:await(port, verdict, timeout)
  return tap.eventually(function()
    return self:sees(port) == verdict
  end, timeout or 5)
end

function Family:report(port)
  write(self.path .. ".report.new", tostring(port))
  os.rename(self.path .. ".report.new", self.path .. ".report")
end

function Family:kill()
  host.kill(self.pid, SIGKILL)
  host.wait(self.pid, 5)
end

local function pass(seconds)
  tap.eventually(function() return false end, seconds)
end

-- === Restart ===

local alive, alive_fd = host.listen(1024)
local dead, dead_fd = host.listen(1024)
host.close(dead_fd)

local first = family("first", config("restart", { alive, dead }))
tap.check("verdicts are found", first:await(alive, "alive") and first:await(dead, "dead"))
tap.check("and saved, for the owner alone", tap.eventually(function()
  return (read(path_of("restart")) or ""):find(" dead .*:" .. dead)
end) and shell("stat -c %a " .. path_of("restart")) == "600", read(path_of("restart")))
first:kill()

tap.in_child("a restart begins with the last verdicts", 10, function()
  local nb = require("nauthilus_backend")
  nb.configure(config("restart", { dead, alive }, {
    connect_interval = "1h", fast_interval = "1h", state_max_age = "1m",
  }))
  local now = verdicts(nb)
  local servers = nb.get_backend_servers()
  return now[alive] == "alive" and now[dead] == "dead" and #servers == 1 and servers[1].port == alive
end)
tap.in_child("older ones than state_max_age are not used", 10, function()
  local nb = require("nauthilus_backend")
  pass(1.1)
  nb.configure(config("restart", { dead, alive }, { connect_interval = "1h", state_max_age = "1s" }))
  nb.stop()
  return verdicts(nb)[dead] == "unknown"
end)

-- === Contents that are none ===

local good = read(path_of("restart"))
local contents = {
  truncated = good:sub(1, -20),
  damaged = good:gsub("dead", "fine"),
  foreign = "#!/bin/sh\necho\n",
  binary = ("\0\255\1"):rep(5000),
}
for kind, content in pairs(contents) do
  write(path_of("bad"), content)
  write(path_of("bad.log"), "")
  tap.in_child("a " .. kind .. " file is reported, not trusted, and made anew", 10, function()
    local nb = require("nauthilus_backend")
    nb.configure(config("bad", { alive, dead }, { log = path_of("bad.log") }))
    local reported = read(path_of("bad.log"))
    local told = reported:find("warning event=state_file_rejected path=\"", 1, true)
    if host.count("/proc/self/task") ~= 1 or not told then
      error("logged: " .. reported)
    end
    return verdicts(nb)[dead] == "unknown" and nb.wait_ready(5) and tap.eventually(function()
      return (read(path_of("bad")) or ""):find("^nauthilus_backend state 1\n.*\nsha256 %x+\n$")
    end)
  end)
end
write(path_of("bad"), "")
write(path_of("bad.log"), "")
tap.in_child("an empty file is a new one", 10, function()
  local nb = require("nauthilus_backend")
  nb.configure(config("bad", { alive }, { log = path_of("bad.log") }))
  return nb.wait_ready(5) and not read(path_of("bad.log")):find("rejected", 1, true)
end)

-- === Files that are refused ===

write(path_of("victim"), "precious")
shell("ln -s victim " .. path_of("link") .. "; mkdir " .. path_of("folder") .. "; mkfifo " .. path_of("pipe"))
write(path_of("open"), "")
shell("chmod 666 " .. path_of("open") .. "; ln " .. path_of("victim") .. " " .. path_of("second"))
local refused = {
  link = "a link, which is not followed",
  folder = "directory",
  pipe = "no regular file",
  open = "others may write it",
  second = "second name",
  ["missing/state"] = "No such file",
}
for name, reason in pairs(refused) do
  tap.in_child(name .. " is refused, and why", 10, function()
    local nb = require("nauthilus_backend")
    nb.configure(tap.config({ alive }))
    local ok, problem = pcall(nb.configure, config(name, { dead }))
    local named = not ok and problem:find("state_file: cannot use " .. path_of(name), 1, true)
    if not named or not problem:find(reason, 1, true) then
      error(problem)
    end
    return nb.status().targets[1].key:find(alive)
  end)
end
tap.check("and nothing is written through it", read(path_of("victim")) == "precious")

-- === What may happen to it while it is used ===

local function one_probes(a, b)
  return tap.eventually(function()
    return a:is_probing() ~= b:is_probing()
  end, 5)
end

local port, fd = host.listen(1024)
local one = family("one", config("used", { port }))
one:await(port, "alive")
local two = family("two", config("used", { port }))
tap.check("of two families one probes", two:await(port, "alive") and one:is_probing() and not two:is_probing())

local function is_whole(state)
  return tap.eventually(function()
    return (read(path_of(state)) or ""):find("\nsha256 %x+\n$")
  end, 5)
end
-- By a process of its own, that may break locks: closing any descriptor of the file would
-- release the lock of the process that closes it.
for what, command in pairs({
  ["truncated"] = ": > " .. path_of("used"),
  ["removed"] = "rm " .. path_of("used"),
  ["replaced"] = "cp " .. path_of("used") .. " " .. path_of("copy")
    .. "; mv " .. path_of("copy") .. " " .. path_of("used"),
  ["overwritten"] = "head -c 100000 /dev/zero > " .. path_of("used"),
}) do
  shell(command)
  tap.check("a file that is " .. what .. " is made anew", is_whole("used"))
  pass(0.3)
  tap.check("one process probes when it was " .. what, one_probes(one, two))
end

-- === Two families ===

host.accept(fd)
pass(1)
local count = host.accept(fd)
tap.check("a target is probed once per interval, by one of two", count >= 14 and count <= 24, count .. " probes")

host.close(fd)
local prober, other = one, two
if two:is_probing() then
  prober, other = two, one
end
prober:await(port, "dead")
local found = host.now()
tap.check("the other follows", other:await(port, "dead"))
tap.check("within 150 ms", host.now() - found < 0.15, host.now() - found)

prober:kill()
local killed = host.now()
tap.check("and takes over", tap.eventually(function()
  return other:is_probing()
end, 5))
-- A busy machine is late by itself.
local soon = os.getenv("SOAK") and 0.3 or 2
tap.check("within an interval", host.now() - killed < soon, host.now() - killed)
other:kill()

-- === Configurations that differ ===

local both, both_fd = host.listen(1024)
local only, only_fd = host.listen(1024)
local keeper = family("keeper", config("differ", { both }))
keeper:await(both, "alive")
local guest = family("guest", config("differ", { both, only }, { log = path_of("guest.log") }))
tap.check("targets that the prober does not know are probed beside it",
  guest:await(only, "alive") and guest:await(both, "alive"))
host.accept(both_fd)
host.accept(only_fd)
pass(1)
local shared, own = host.accept(both_fd), host.accept(only_fd)
tap.check("each once per interval", shared >= 14 and shared <= 24 and own >= 14 and own <= 24, shared .. " and " .. own)
local guest_log = read(path_of("guest.log")) or ""
tap.check("and the log says so",
  guest_log:find("event=state_file_not_shared .* targets_probed_here=1 reason=\"[^\"]*other targets"),
  read(path_of("guest.log")))
host.close(only_fd)
tap.check("their verdicts are true", guest:await(only, "dead"))
keeper:kill()
tap.check("also when the prober is gone", tap.eventually(function()
  host.accept(both_fd)
  pass(0.2)
  return host.accept(both_fd) >= 2
end, 3))
guest:kill()

keeper = family("keeper", config("policy", { both }, { connect_interval = "1h" }))
keeper:await(both, "alive")
guest = family("guest", config("policy", { both }))
guest:await(both, "alive")
host.close(both_fd)
tap.check("who probes more often does not rely on who probes less often", guest:await(both, "dead"))
keeper:kill()
guest:kill()

-- === Reports ===

port, fd = host.listen(1024)
local slow = { connect_interval = "1h", failure_threshold = 2 }
keeper = family("keeper", config("report", { port }, slow))
keeper:await(port, "alive")
guest = family("guest", config("report", { port }, slow))
guest:await(port, "alive")
host.close(fd)
guest:report(port)
tap.check("a report is heard by who only follows", guest:await(port, "dead", 1))
-- The prober saves every half second, and knows nothing of it.
pass(0.7)
tap.check("and stands until the prober has looked", guest:sees(port) == "dead" and keeper:sees(port) == "alive",
  guest:sees(port) .. " " .. keeper:sees(port))
keeper:report(port)
tap.check("which it does when it is told", keeper:await(port, "dead", 1))
keeper:kill()
guest:kill()
host.close(alive_fd)
shell("rm -r " .. folder)
