-- The state file: kept across restarts, shared by processes that no fork relates, and whatever
-- may happen to it in between. This process loads the module nowhere but in children.

local tap = require("tap")

local SIGKILL = 9
local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

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

-- === A child with an engine and a table of its own, which writes all the time what it sees ===

local Child = {}
Child.__index = Child

local function child(name, settings)
  local self = setmetatable({ path = path_of(name), name = name }, Child)
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
      local became = 0
      for _, event in ipairs(nb.events()) do
        if event.type == "prober" and tonumber(event.to) == status.pid then
          became = became + 1
        end
      end
      text[#text + 1] = "became=" .. became
      write(self.path .. ".new", table.concat(text, " ") .. "\n")
      os.rename(self.path .. ".new", self.path)
      local port = read(self.path .. ".report")
      if port then
        os.remove(self.path .. ".report")
        nb.report_failure("127.0.0.1", tonumber(port))
      end
    end, 150)
  end)
  io.write("# ", name, " ended: ", tostring(problem or ok), "\n")
  host.exit_now(1)
end

function Child:sees(port)
  return (read(self.path) or ""):match(port .. "=(%a+)")
end

function Child:is_probing()
  return (read(self.path) or ""):match("^%a+") == "true"
end

-- How often it became the prober, as the events of its table say.
function Child:became_prober()
  return tonumber((read(self.path) or ""):match("became=(%d+)"))
end

function Child:await(port, verdict, timeout)
  return tap.eventually(function()
    return self:sees(port) == verdict
  end, timeout or 30)
end

function Child:report(port)
  write(self.path .. ".report.new", tostring(port))
  os.rename(self.path .. ".report.new", self.path .. ".report")
end

function Child:kill()
  host.kill(self.pid, SIGKILL)
  host.wait(self.pid, 60)
end

local function pass(seconds)
  tap.eventually(function() return false end, seconds)
end

-- Counts the probes that reach each listener until there are 20 of each, and checks that they came
-- from one prober, every 50 ms. A busy machine makes them late, which only takes longer.
local function check_rate(name, ...)
  local listeners, counts = { ... }, {}
  local started = host.now()
  for index, listener in ipairs(listeners) do
    host.accept(listener)
    counts[index] = 0
  end
  local come = tap.eventually(function()
    local least = math.huge
    for index, listener in ipairs(listeners) do
      counts[index] = counts[index] + host.accept(listener)
      least = math.min(least, counts[index])
    end
    return least >= 20
  end, 30)
  local took = host.now() - started
  -- Intervals vary by 5 %, and a late probe may be followed by one on time.
  local most = took / 0.05 * 1.06 + 4
  local text = table.concat(counts, " and ") .. " probes in " .. took .. " s"
  tap.check(name, come and math.max(unpack(counts)) <= most, text)
end

-- === Restart ===

local alive, alive_fd = host.listen(1024)
local dead, dead_fd = host.listen(1024)
host.close(dead_fd)

local first = child("first", config("restart", { alive, dead }))
tap.check("verdicts are found", first:await(alive, "alive") and first:await(dead, "dead"))
tap.check("and saved, for the owner alone", tap.eventually(function()
  return (newest(read(path_of("restart")) or "") or ""):find(" verdict=dead [^\n]*:" .. dead .. '"')
end) and shell("stat -c %a " .. path_of("restart")) == "600", read(path_of("restart")))
tap.check("twice, in turn", tap.eventually(function()
  local both = read(path_of("restart")) or ""
  local function count(verdict)
    return select(2, both:gsub("verdict=" .. verdict, ""))
  end
  return count("dead") == 2 and count("alive") == 2
end))
first:kill()

tap.in_child("a restart begins with the last verdicts", 60, function()
  local nb = require("nauthilus_backend")
  nb.configure(config("restart", { dead, alive }, {
    connect_interval = "1h", fast_interval = "1h", state_max_age = "1m",
  }))
  local now = verdicts(nb)
  local servers = nb.get_backend_servers()
  return now[alive] == "alive" and now[dead] == "dead" and #servers == 1 and servers[1].port == alive
end)
tap.in_child("older ones than state_max_age are not used", 60, function()
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
  zeroed = ("\0"):rep(50000),
}
for kind, content in pairs(contents) do
  write(path_of("bad"), content)
  write(path_of("bad.log"), "")
  tap.in_child("a " .. kind .. " file is reported, not trusted, and made anew", 60, function()
    local nb = require("nauthilus_backend")
    nb.configure(config("bad", { alive, dead }, { log = path_of("bad.log") }))
    local reported = read(path_of("bad.log"))
    local told = reported:find("warning event=state_file_rejected path=\"", 1, true)
    if host.count("/proc/self/task") ~= 1 or not told then
      error("logged: " .. reported)
    end
    return verdicts(nb)[dead] == "unknown" and nb.wait_ready(30) and tap.eventually(function()
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
  tap.in_child("what is left of a write that did not end is not used, but the content before it", 60, function()
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
  tap.in_child("a file that cannot grow keeps its last good content", 60, function()
    local nb = require("nauthilus_backend")
    local ports = {}
    for index = 1, 60 do
      ports[index] = 20000 + index
    end
    nb.configure(config("full", ports, { state_max_age = "1h" }))
    host.limit_file_size(#before)
    nb.wait_ready(30)
    pass(1)
    return newest(read(path_of("full"))) ~= nil
  end)
  tap.check("which reads as it did", newest(read(path_of("full"))) == seen)
end

-- A reload may change the log: errors go to the present one.
tap.in_child("an error of the file is in the log of the present configuration", 60, function()
  local nb = require("nauthilus_backend")
  local function configure(log)
    nb.configure(config("logged", { alive }, { log = path_of(log) }))
  end
  configure("logged.before")
  assert(nb.wait_ready(30) and tap.eventually(function() return newest(read(path_of("logged")) or "") end))
  configure("logged.now")
  -- The contents begin behind the first 16 kB.
  host.limit_file_size(10000)
  local told = tap.eventually(function()
    return (read(path_of("logged.now")) or ""):find("error event=state_file_not_written path=", 1, true)
  end)
  return told and not (read(path_of("logged.before")) or ""):find("not_written", 1, true)
end)

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
  tap.in_child("a file of version 1 is read, and becomes one of version 2", 60, function()
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
tap.in_child("lines that this version does not know are kept", 60, function()
  local nb = require("nauthilus_backend")
  nb.configure(config("later", { alive }))
  nb.wait_ready(30)
  return tap.eventually(function()
    local now = newest(read(path_of("later"))) or ""
    return now ~= newest(good) and now:find("saved", 1, true) and not now:find(":" .. dead .. '"', 1, true)
      and now:find('\nbinding 0011 node="mail 1" colour=green\nnode mail1 usable=1\n', 1, true)
  end)
end)

write(path_of("bad"), "")
write(path_of("bad.log"), "")
tap.in_child("an empty file is a new one", 60, function()
  local nb = require("nauthilus_backend")
  nb.configure(config("bad", { alive }, { log = path_of("bad.log") }))
  return nb.wait_ready(30) and not read(path_of("bad.log")):find("rejected", 1, true)
end)

-- === Files that are refused ===

write(path_of("victim"), "precious")
shell("ln -s victim " .. path_of("link") .. "; mkdir " .. path_of("folder") .. "; mkfifo " .. path_of("pipe"))
write(path_of("open"), "")
write(path_of("foreign"), "#!/bin/sh\necho\n")
write(path_of("binary"), ("\0\255\1"):rep(5000))
shell("chmod 666 " .. path_of("open") .. "; ln " .. path_of("victim") .. " " .. path_of("second"))
local refused = {
  link = "a link, which is not followed",
  folder = "directory",
  pipe = "no regular file",
  open = "others may write it",
  second = "second name",
  foreign = "no state file, and it would be overwritten",
  binary = "no state file, and it would be overwritten",
  ["missing/state"] = "No such file",
}
for name, reason in pairs(refused) do
  tap.in_child(name .. " is refused, and why", 60, function()
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
  tap.in_child("root may use the file of any user", 60, function()
    local nb = require("nauthilus_backend")
    nb.configure(config("owned", { alive }))
    return nb.wait_ready(30) and tap.eventually(function()
      return newest(read(path_of("owned")) or "")
    end)
  end)
end
if host.user() == 0 then
  -- As a daemon does that has read its configuration. The folder exists there as well.
  local root = path_of("root")
  shell("mkdir -p " .. root .. folder)
  local pid = host.fork()
  if pid == 0 then
    local nb = require("nauthilus_backend")
    nb.configure(config("rooted", { alive }))
    nb.wait_ready(30)
    host.change_root(root)
    nb.set_target_state("imap://127.0.0.1:" .. alive, "drain")
    pass(120)
    host.exit_now(0)
  end
  -- It saves every half second, and checks its role more often.
  local saves, last = 0, nil
  tap.check("a process with another root directory writes the file that it opened", tap.eventually(function()
    local now = newest(read(path_of("rooted")) or "")
    if now and now ~= last and now:find(" state=drain ", 1, true) then
      saves, last = saves + 1, now
    end
    return saves >= 4
  end, 60))
  host.kill(pid, SIGKILL)
  host.wait(pid, 60)
  tap.check("and none in its new root", shell("ls " .. root .. folder) == "")
end
tap.check("and nothing is written through it", read(path_of("victim")) == "precious")
tap.check("nor over what others have written",
  read(path_of("foreign")) == "#!/bin/sh\necho\n" and read(path_of("binary")) == ("\0\255\1"):rep(5000))
shell("ln -s both " .. path_of("both.link"))
for _, log in ipairs({ "both", "both.link", "folder/../both" }) do
  tap.in_child("the file of the log is refused: " .. log, 60, function()
    local nb = require("nauthilus_backend")
    local ok, problem = pcall(nb.configure, config("both", { dead }, { log = path_of(log) }))
    local expected = "state_file: " .. path_of("both") .. " is the file of log as well"
    if ok or not problem:find(expected, 1, true) then
      error(problem)
    end
    return nb.status().error == "not configured"
  end)
end

-- === What may happen to it while it is used ===

local function one_probes(a, b)
  return tap.eventually(function()
    return a:is_probing() ~= b:is_probing()
  end, 30)
end

local port, fd = host.listen(1024)
local one = child("one", config("used", { port }))
one:await(port, "alive")
local two = child("two", config("used", { port }))
tap.check("of two families one probes", two:await(port, "alive") and one:is_probing() and not two:is_probing())

local function is_whole(state)
  return tap.eventually(function()
    return newest(read(path_of(state)) or "") ~= nil
  end, 30)
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

check_rate("a target is probed once per interval, by one of two", fd)

local prober, other = one, two
if two:is_probing() then
  prober, other = two, one
end
-- The file is read every 50 ms. The rest is the time that a busy machine takes, so one of up to
-- eight tries is enough.
local followed, longest = true, {}
for try = 1, 8 do
  host.close(fd)
  followed = followed and prober:await(port, "dead", 30)
  local found = host.now()
  followed = followed and other:await(port, "dead", 30)
  longest[try] = host.now() - found
  if not followed or longest[try] < 0.15 or try == 8 then
    break
  end
  fd = select(2, host.listen(1024, "127.0.0.1", port))
  followed = prober:await(port, "alive", 30) and other:await(port, "alive", 30)
end
tap.check("the other follows", followed)
tap.check("within 150 ms", longest[#longest] < 0.15, table.concat(longest, " "))

local became = other:became_prober()
prober:kill()
local killed = host.now()
tap.check("and takes over", tap.eventually(function()
  return other:is_probing()
end, 30))
-- A busy machine is late by itself; a file that is silent would be given up after 12 s.
local soon = os.getenv("SOAK") and 0.3 or 5
tap.check("within an interval", host.now() - killed < soon, host.now() - killed)
tap.check("which is an event", tap.eventually(function()
  return other:became_prober() == became + 1
end), other:became_prober())
other:kill()

-- === Another state file between a stop and a start ===

-- The thread that was stopped may go on at once with the new configuration: what it had of the old
-- one, it must give back.
for turn = 1, 3 do
  tap.in_child("a role that ended with a stop is free for others, turn " .. turn, 100, function()
    local nb = require("nauthilus_backend")
    nb.configure(config("before", { alive }))
    assert(tap.eventually(function() return nb.status().probing end))
    nb.stop()
    nb.configure(config("after" .. turn, { alive }))
    nb.start()
    local heir = host.fork()
    if heir == 0 then
      nb.configure(config("before", { alive }))
      nb.start()
      local probes = tap.eventually(function() return nb.status().probing end)
      host.exit_now(probes and 0 or 1)
    end
    local how, code = host.wait(heir, 60)
    return how == "exit" and code == 0 and tap.eventually(function() return nb.status().probing end)
  end)
end

-- === Configurations that differ ===

local both, both_fd = host.listen(1024)
local only, only_fd = host.listen(1024)
local keeper = child("keeper", config("differ", { both }))
keeper:await(both, "alive")
local follower = child("follower", config("differ", { both, only }, { log = path_of("follower.log") }))
tap.check("targets that the prober does not know are probed beside it",
  follower:await(only, "alive") and follower:await(both, "alive"))
check_rate("each once per interval", both_fd, only_fd)
local guest_log = read(path_of("follower.log")) or ""
tap.check("and the log says so",
  guest_log:find("event=state_file_not_shared .* targets_probed_here=1 reason=\"[^\"]*other targets"),
  read(path_of("follower.log")))
host.close(only_fd)
tap.check("their verdicts are true", follower:await(only, "dead"))
keeper:kill()
tap.check("also when the prober is gone", tap.eventually(function()
  host.accept(both_fd)
  pass(0.2)
  return host.accept(both_fd) >= 2
end, 30))
follower:kill()

keeper = child("keeper", config("policy", { both }, { connect_interval = "1h" }))
keeper:await(both, "alive")
follower = child("follower", config("policy", { both }))
follower:await(both, "alive")
host.close(both_fd)
tap.check("who probes more often does not rely on who probes less often", follower:await(both, "dead"))
keeper:kill()
follower:kill()

-- === Reports ===

port, fd = host.listen(1024)
local slow = { connect_interval = "1h", failure_threshold = 2 }
keeper = child("keeper", config("report", { port }, slow))
keeper:await(port, "alive")
follower = child("follower", config("report", { port }, slow))
follower:await(port, "alive")
host.close(fd)
follower:report(port)
tap.check("a report works in a process that only follows", follower:await(port, "dead"))
-- The prober saves every half second, and knows nothing of it.
pass(0.7)
tap.check("and counts until the prober has probed", follower:sees(port) == "dead" and keeper:sees(port) == "alive",
  follower:sees(port) .. " " .. keeper:sees(port))
keeper:report(port)
tap.check("which it does when it is told", keeper:await(port, "dead"))
keeper:kill()
follower:kill()
host.close(alive_fd)
shell("rm -r " .. folder)
