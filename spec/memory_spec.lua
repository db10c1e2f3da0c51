-- not under valgrind: its heap is another, and keeps what is freed
-- What a configuration leaves in the process that reads it. Each is read in a process of its own:
-- holes that other work left in a heap would hide what it takes.

local interpreter = require("spec.support.interpreter")

-- What runs in each: prints the bytes of resident memory that reading and running `source`, made
-- before anything is measured, has added for each target, and how many targets there are.
local MEASURE = [[
  local nb = require("nauthilus_backend")

  local function host(index)
    return string.format("127.1.%%d.%%d", math.floor(index / 250), index %% 250 + 1)
  end

  local function resident()
    collectgarbage()
    collectgarbage()
    local file = assert(io.open("/proc/self/status"))
    local text = file:read("*a")
    file:close()
    return tonumber(text:match("VmRSS:%%s*(%%d+) kB")) * 1024
  end

  local function source(count)
    %s
  end

  local function read(made)
    nb.configure(made)
    nb.stop()
    if type(made) == "string" then
      os.remove(made)
    end
  end

  -- The first configuration of a process takes some memory whatever its length: it is not counted.
  read(source(1))
  local count = %d
  local made = source(count)
  local before = resident()
  read(made)
  local taken = resident() - before
  -- Keeps the table until here: if it were freed before, its memory would hide what the configuration takes.
  assert(made)
  print(taken / count, #nb.status().targets)
]]

local TABLE = [[
    local list = {}
    for index = 1, count do
      list[index] = { protocol = "pop3", host = host(index), port = 110 }
    end
    return { log = "none", backend_servers = list }
]]

local FILE = [[
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write("backend_server_monitoring:\n  log: none\n  targets:\n")
    for index = 1, count do
      file:write(string.format("    - { protocol: imap, host: %s, port: 143 }\n", host(index)))
    end
    file:close()
    return path
]]

describe("a configuration of many targets", function()
  local COUNT = 10000
  -- Bytes for each target. Some 1,235 were measured: a third of it is what the C library keeps of the memory that
  -- the configuration took while it was read, a fifth is the node that each target with a host of its own is.
  -- HAProxy takes 5,700 for a server with its check.
  local MOST = 1500

  local function taken(make)
    local printed, well = interpreter.run(MEASURE:format(make, COUNT))
    assert.is_true(well, printed)
    local bytes, targets = printed:match("^(%S+)%s+(%d+)%s*$")
    assert.are.equal(COUNT, tonumber(targets), printed)
    return tonumber(bytes)
  end

  it("takes little of a table", function()
    local bytes = taken(TABLE)
    assert.is_true(bytes < MOST, bytes .. " bytes")
  end)

  it("takes little of a file", function()
    local bytes = taken(FILE)
    assert.is_true(bytes < MOST, bytes .. " bytes")
  end)
end)
