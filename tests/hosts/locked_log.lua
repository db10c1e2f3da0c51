-- Another process has the log file locked, as one of ours that was stopped while it appended a line:
-- what must not wait for it is lost and counted, what may wait is written in the end.

local tap = require("tap")
local nb = require("nauthilus_backend")

local function read(path)
  local file = assert(io.open(path, "rb"))
  local content = file:read("*a")
  file:close()
  return content
end

local folder = arg[4]
local log = folder .. "/locked-log"

-- Another damaged state file each time, which is reported; the engine, once it runs, writes it anew.
local number = 0
local function configure(extra)
  number = number + 1
  local garbage = folder .. "/locked-garbage-" .. number
  local file = assert(io.open(garbage, "w"))
  file:write("nauthilus_backend state 2, damaged\n")
  file:close()
  local config = tap.config({ 20000 + number }, { log = log, state_file = garbage })
  for key, value in pairs(extra or {}) do
    config[key] = value
  end
  nb.configure(config)
end

local function lines()
  local _, count = read(log):gsub("event=state_file_rejected", "")
  return count
end

local function is_told()
  return table.concat(nb.status().warnings, "\n"):find("another process has the file locked", 1, true) ~= nil
end

configure()
tap.check("a line is written", lines() == 1 and not is_told(), read(log))

-- It ends when its standard input does.
local holder = assert(io.popen(([[python3 -c '
import fcntl, sys
file = open("%s", "a")
fcntl.lockf(file, fcntl.LOCK_EX)
open("%s", "w").close()
sys.stdin.read()
']]):format(log, folder .. "/locked-is-held"), "w"))
assert(tap.eventually(function()
  local held = io.open(folder .. "/locked-is-held")
  return held and held:close()
end))

configure()
tap.check("configure waits for no stopped process: its line is lost and counted", lines() == 1 and is_told(), read(log))

configure({ failure_threshold = 1, fast_interval = 0.1, connect_interval = 0.1 })
nb.start()
local came = tap.eventually(function()
  return read(log):find("event=target_down", 1, true) ~= nil
end)
tap.check("what the engine says is written all the same", came, read(log))
nb.stop()

holder:close()
local before = lines()
configure()
tap.check("once the file is free, lines are written at once", lines() == before + 1, read(log))
tap.check("each line is whole", not read(log):find("\n[^%d]") and read(log):find("\n$") ~= nil, read(log))
