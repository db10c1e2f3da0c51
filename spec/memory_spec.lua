-- not under valgrind: its heap is another, and keeps what is freed
-- What a configuration leaves in the process that reads it.

describe("a configuration of many targets", function()
  local COUNT = 10000
  -- Bytes of resident memory for each target, far above what it takes and far below what a tree of
  -- values, freed but kept by the C library, left behind (3,000 from a file, 1,400 from a table).
  local MOST = 1100

  local nb

  lazy_setup(function()
    nb = require("nauthilus_backend")
    nb.stop()
  end)

  lazy_teardown(function()
    nb.configure({ log = "none", backend_servers = {} })
    nb.stop()
  end)

  local function resident()
    collectgarbage()
    collectgarbage()
    local file = assert(io.open("/proc/self/status"))
    local text = file:read("*a")
    file:close()
    return tonumber(text:match("VmRSS:%s*(%d+) kB")) * 1024
  end

  local function host(index)
    return string.format("127.1.%d.%d", math.floor(index / 250), index % 250 + 1)
  end

  -- Bytes of each target that `source`, made before anything is measured, is read into.
  local function taken(source)
    local before = resident()
    nb.configure(source)
    nb.stop()
    return (resident() - before) / COUNT
  end

  -- First, while no hole that something else left could hide what it takes.
  it("takes little of a table", function()
    local list = {}
    for index = 1, COUNT do
      list[index] = { protocol = "pop3", host = host(index), port = 110 }
    end
    local bytes = taken({ log = "none", backend_servers = list })
    assert.is_true(bytes < MOST, bytes .. " bytes")
    assert.are.equal(COUNT, #nb.status().targets)
  end)

  it("takes little of a file", function()
    local lines = {}
    for index = 1, COUNT do
      lines[index] = string.format("    - { protocol: imap, host: %s, port: 143 }\n", host(index))
    end
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write("backend_server_monitoring:\n  log: none\n  targets:\n", table.concat(lines))
    file:close()
    lines = nil -- luacheck: ignore
    local bytes = taken(path)
    os.remove(path)
    assert.is_true(bytes < MOST, bytes .. " bytes")
    assert.are.equal(COUNT, #nb.status().targets)
  end)
end)
