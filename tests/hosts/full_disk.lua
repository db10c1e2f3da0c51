-- A disk that is full now and then: each line of the log is whole or absent, and those that are
-- absent are counted. Four processes write to one file, beside one that takes and gives back room.

local tap = require("tap")

local function shell(command)
  local pipe = assert(io.popen(command))
  local output = pipe:read("*a")
  pipe:close()
  return (output:gsub("%s+$", ""))
end

local function write(path, content)
  local file = io.open(path, "w")
  if file then
    file:write(content)
    file:close()
  end
end

-- The mount is this process's own, see tests/suites/hosts, and ends with it.
local folder = shell("mktemp -d")
local is_disk = shell("mount -t tmpfs -o size=64k tmpfs " .. folder .. " 2>/dev/null && echo mounted") == "mounted"
if not is_disk then
  print("# no file system may be mounted here: a limit on the size of files instead")
end
local log, filler = folder .. "/log", folder .. "/filler"
local counts = shell("mktemp -d")

local function child(number)
  if not is_disk then
    host.limit_file_size(60000 + number)
  end
  local nb = require("nauthilus_backend")
  -- A file of its own: a child that has done its turns may start its engine, which makes the file anew.
  local garbage = counts .. "/state" .. number
  write(garbage, "nauthilus_backend state 2, damaged\n")
  for turn = 1, 200 do
    -- Another configuration each time, so that the state file is read and refused each time as well.
    nb.configure(tap.config({ 20000 + turn }, { log = log, state_file = garbage }))
  end
  local lost = 0
  for _, warning in ipairs(nb.status().warnings) do
    lost = tonumber(warning:match("^log: (%d+) lines of this process were lost: ")) or lost
  end
  write(counts .. "/" .. number, tostring(lost))
end

local children = {}
for number = 1, 4 do
  local pid = host.fork()
  if pid == 0 then
    local ok, problem = pcall(child, number)
    if not ok then
      io.write("# ", tostring(problem), "\n")
    end
    host.exit_now(ok and 0 or 1)
  end
  children[number] = pid
end
local ended, all_good = 0, true
for number, pid in ipairs(children) do
  local how, code
  repeat
    -- The disk has room for some lines, then for none, again and again.
    write(filler, ("x"):rep(64 * 1024))
    how, code = host.wait_a_moment(pid)
    write(filler, ("x"):rep(8 * 1024))
    if not how then
      how, code = host.wait_a_moment(pid)
    end
  until how
  ended = number
  all_good = all_good and how == "exit" and code == 0
end
tap.check("the processes end well", all_good and ended == 4)

local whole, broken = 0, {}
local file = assert(io.open(log, "rb"))
local content = file:read("*a")
file:close()
for line in content:gmatch("[^\n]*\n?") do
  local is_whole = line:find('^%d+%-%d+%-%d+T[%d:.]+Z warning event=state_file_rejected path="[^"]+" reason="[^"]+"\n$')
  if is_whole then
    whole = whole + 1
  elseif line ~= "" then
    broken[#broken + 1] = line
  end
end
local lost = 0
for number = 1, 4 do
  local counted = io.open(counts .. "/" .. number)
  lost = lost + (tonumber(counted and counted:read("*a") or "") or 0)
end
io.write("# ", whole, " lines are there, ", lost, " were lost, ", #broken, " are broken\n")
tap.check("each line is whole", whole > 50 and #broken == 0, table.concat(broken))
tap.check("those that are not there were counted", lost > 50 and whole + lost == 800, whole .. " and " .. lost)
shell("umount " .. folder .. " 2>/dev/null; rm -rf " .. folder .. " " .. counts)
