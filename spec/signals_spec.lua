-- not under valgrind: it keeps signals and threads of its own
-- Threads of ours must never run the host's signal handlers, and change nothing of the process.

local lfs = require("lfs")

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")

local function read(path)
  local file = io.open(path)
  if not file then
    return nil
  end
  local text = file:read("*a")
  file:close()
  return text
end

-- Thread ids of this process, each with its status text.
local function threads()
  local found = {}
  for id in lfs.dir("/proc/self/task") do
    if id:match("^%d+$") then
      found[id] = read("/proc/self/task/" .. id .. "/status")
    end
  end
  return found
end

-- A mask of signals as two numbers, without 32 and 33: glibc handles them itself once a process has
-- a second thread.
local function mask(status, field)
  local high, low = status:match(field .. ":%s*(%x%x%x%x%x%x%x%x)(%x%x%x%x%x%x%x%x)")
  high, low = tonumber(high, 16), tonumber(low, 16)
  return { high - high % 2, low % 2 ^ 31 }
end

describe("the host's process", function()
  local nb, world

  lazy_setup(function()
    world = peers.new()
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  it("keeps its signals, limits and environment, and ours are threads without signals", function()
    local main = read("/proc/self/stat"):match("^%d+")
    local before = threads()
    local limits = read("/proc/self/limits")
    local environment = read("/proc/self/environ")

    nb = require("nauthilus_backend")
    -- A name, so that a thread that resolves runs as well; a hole, so that a probe is in flight.
    nb.configure(engine.config({
      { protocol = "imap", host = "localhost", port = world:open().port },
      engine.imap(world:hole().port, { connect_timeout = "30s" }),
    }))
    nb.start_check("localhost", world:open().port, false, false):wait(60)

    local ours = 0
    for id, status in pairs(threads()) do
      if not before[id] then
        ours = ours + 1
        local blocked = status:match("SigBlk:%s*(%x+)")
        -- Bits 8 and 18 are SIGKILL and SIGSTOP, which nobody can block; glibc keeps 32 and 33, but while it begins
        -- or ends a thread.
        assert.matches("^fffffff[ef][7f]ffbfeff$", blocked)
        assert.matches("Name:%s*%S", status)
      end
    end
    assert.is_true(ours >= 1, "no thread of ours is running")

    local after = threads()[main]
    for _, field in ipairs({ "SigBlk", "SigIgn", "SigCgt" }) do
      assert.are.same(mask(before[main], field), mask(after, field), field)
    end
    assert.are.equal(limits, read("/proc/self/limits"))
    assert.are.equal(environment, read("/proc/self/environ"))
  end)
end)
