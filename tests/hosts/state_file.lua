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

-- The content that counts: of the two the one with the higher number whose checksum fits.
local function newest(content)
  local best, best_number = nil, -1
  if not content:find("^nauthilus_backend state 2 *\n") then
    return nil
  end
  for at = 512, 1024, 512 do
    local number, offset, length, sum = content:sub(at + 1, at + 512):match("^head (%d+) (%d+) (%d+) (%x+) %x+ *\n$")
    if number and tonumber(number) > best_number then
      local body = content:sub(offset + 1, offset + length)
      local path = folder .. "/sum"
      write(path, body)
      if shell("sha256sum < " .. path):match("^%x+") == sum then
        best, best_number = body, tonumber(number)
      end
    end
  end
  return best
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
  return (newest(read(path_of("restart")) or "") or ""):find(" verdict=dead [^\n]*:" .. dead .. '"')
end) and shell("stat -c %a " .. path_of("restart")) == "600", read(path_of("restart")))
tap.check("twice, in turn", tap.eventually(function()
  return select(2, (read(path_of("restart")) or ""):gsub("verdict=dead", "")) == 2
end))
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
  -- Before the older of its two contents.
  truncated = good:sub(1, 5000),
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
      return (read(path_of("bad")) or ""):find(
        "^nauthilus_backend state 2 .*\nhead %d+ %d+ %d+ %x+ %x+ *\n.*target %x+ .*verdict=")
    end)
  end)
end
-- === Contents in turn ===

local function head_at(content, at)
  return content:sub(at + 1, at + 512):match("^head (%d+) (%d+) (%d+)")
end
do
  local both = good
  local a, b = head_at(both, 512), head_at(both, 1024)
  tap.check("a file has two contents", a and b and math.abs(a - b) == 1, tostring(a) .. " " .. tostring(b))
  -- As a writer leaves it that was killed, or had no room left, in the middle of the newer one.
  local place = tonumber(a) > tonumber(b) and 512 or 1024
  local _, offset = head_at(both, place)
  write(path_of("torn"), both:sub(1, offset + 20) .. ("x"):rep(30) .. both:sub(offset + 51))
  write(path_of("torn.log"), "")
  tap.in_child("what is left of a write that did not end is not used, but the content before it", 10, function()
    local nb = require("nauthilus_backend")
    nb.configure(config("torn", { dead, alive }, {
      connect_interval = "1h", fast_interval = "1h", state_max_age = "1h", log = path_of("torn.log"),
    }))
    local now = verdicts(nb)
    return now[alive] == "alive" and now[dead] == "dead" and not read(path_of("torn.log")):find("rejected", 1, true)
  end)
end

-- A disk without room, as a limit on the size of files makes one.
do
  local seen = newest(good)
  write(path_of("full"), good)
  local before = read(path_of("full"))
  tap.in_child("a file that cannot grow keeps its last good content", 20, function()
    local nb = require("nauthilus_backend")
    local ports = {}
    for index = 1, 60 do
      ports[index] = 20000 + index
    end
    nb.configure(config("full", ports, { state_max_age = "1h" }))
    host.limit_file_size(#before)
    nb.wait_ready(5)
    pass(1)
    return newest(read(path_of("full"))) ~= nil
  end)
  tap.check("which reads as it did", newest(read(path_of("full"))) == seen)
end

-- === A file of version 1 ===

do
  local body = "nauthilus_backend state 1\nsaved " .. shell("date +%s") .. "000\n"
    .. "policy connect=1h deep=1h fast=1h failures=1 recoveries=1 initially=alive\n"
  for line in newest(good):gmatch("target [^\n]+") do
    local function field(name)
      return (line:match(" " .. name .. "=(%S+)"))
    end
    body = body .. table.concat({
      "target", line:match("^target (%x+)"), field("verdict"), field("connect"), "-", field("since"), field("probes"),
      field("failures"), field("connect_started"), "0", field("latency"), field("address"), "-", "0",
      'error=""', "key=x",
    }, " ") .. "\n"
  end
  write(path_of("sum"), body)
  write(path_of("old"), body .. "sha256 " .. shell("sha256sum < " .. path_of("sum")):match("^%x+") .. "\n")
  tap.in_child("a file of version 1 is read, and becomes one of version 2", 10, function()
    local nb = require("nauthilus_backend")
    nb.configure(config("old", { dead, alive }, {
      connect_interval = "1h", fast_interval = "1h", state_max_age = "1h",
    }))
    local now = verdicts(nb)
    nb.start()
    return now[alive] == "alive" and now[dead] == "dead" and tap.eventually(function()
      return (newest(read(path_of("old"))) or ""):find("verdict=dead")
    end)
  end)
end

-- === Lines of a version to come ===

local function with_content(name, content)
  local function sector(line)
    return line .. (" "):rep(511 - #line) .. "\n"
  end
  local function sum(text)
    write(path_of("sum"), text)
    return shell("sha256sum < " .. path_of("sum")):match("^%x+")
  end
  local head = ("head 8 16384 %d %s"):format(#content, sum(content))
  local file = sector("nauthilus_backend state 2") .. sector(head .. " " .. sum(head):sub(1, 16))
  write(path_of(name), file .. ("\0"):rep(16384 - #file) .. content)
end
with_content("later", newest(good) .. "binding 0011 node=\"mail 1\" colour=green\nnode mail1 usable=1\n")
tap.in_child("lines that this version does not know are kept", 10, function()
  local nb = require("nauthilus_backend")
  nb.configure(config("later", { alive }))
  nb.wait_ready(5)
  return tap.eventually(function()
    local now = newest(read(path_of("later"))) or ""
    return now ~= newest(good) and now:find("saved", 1, true) and not now:find(":" .. dead .. '"', 1, true)
      and now:find('\nbinding 0011 node="mail 1" colour=green\nnode mail1 usable=1\n', 1, true)
  end)
end)

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
if host.user() == 0 then
  write(path_of("owned"), "")
  shell("chown 12345 " .. path_of("owned"))
  tap.in_child("root may use the file of any user", 10, function()
    local nb = require("nauthilus_backend")
    nb.configure(config("owned", { alive }))
    return nb.wait_ready(5) and tap.eventually(function()
      return newest(read(path_of("owned")) or "")
    end)
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
    return newest(read(path_of(state)) or "") ~= nil
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
