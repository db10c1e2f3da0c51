-- A process that follows the state file of another one, and reports failures itself.

local socket = require("socket")

local engine = require("spec.support.engine")
local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")

local IMAP = [[
send * OK ready\r\n
expect ^a1 CAPABILITY
send * CAPABILITY IMAP4rev1\r\na1 OK done\r\n
expect LOGOUT
close]]
local REFUSING = "send * BYE no room\\r\\n\nclose"

describe("a process that follows the state file", function()
  local nb, world, writer, server
  local files = 0

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
  end)

  before_each(function()
    server = world:open({ script = IMAP })
  end)

  after_each(function()
    nb.stop()
    if writer then
      writer:stop()
    end
    writer = nil
  end)

  lazy_teardown(function()
    world:stop()
  end)

  local function read_all(path)
    local file = io.open(path, "rb")
    local content = file and file:read("*a") or ""
    if file then
      file:close()
    end
    return content
  end

  -- Starts another process that probes the server and writes the file, and has this one follow it.
  local function follow(intervals)
    files = files + 1
    local settings = {
      log = "none", state_file = world:folder() .. "/verdicts" .. files, connect_timeout = "5s",
      connect_interval = intervals.connect, deep_interval = intervals.deep, fast_interval = "50ms",
    }
    local lines = {}
    for key, value in pairs(settings) do
      lines[#lines + 1] = ("%s = %q,"):format(key, value)
    end
    writer = interpreter.start(([[
      local nb = require("nauthilus_backend")
      nb.configure({ %s backend_servers = {
        { protocol = "imap", host = "127.0.0.1", port = %d, deep_check = true },
      } })
      nb.start()
    ]]):format(table.concat(lines, " "), server.port))
    engine.eventually("the other process has written the file", function()
      return read_all(settings.state_file):find("verdict=alive", 1, true)
    end)
    settings.backend_servers = { engine.imap(server.port, { deep_check = true }) }
    nb.configure(settings)
    assert.is_true(nb.wait_ready(30))
    engine.eventually("this process follows", function()
      return nb.status().running and not nb.status().probing
    end)
    -- The file has start times in milliseconds of a clock that may be adjusted, so probes that begin within 10 ms of
    -- each other count as begun at the same time, and then the file's outcome counts.
    socket.select(nil, nil, 0.1)
  end

  local function report()
    assert.is_true(nb.report_failure("127.0.0.1", server.port))
  end

  it("goes on to follow after a report, though its deep probe is later than the writer's", function()
    follow({ connect = "100ms", deep = "1h" })
    local before = server:stats().played
    report()
    server:await("played", before + 1)
    server:close()
    engine.await_verdict(nb, server.port, "dead")
    assert.are.same({}, engine.ports(nb))
    server:reopen()
    engine.await_verdict(nb, server.port, "alive")
  end)

  it("finds out itself that the failure which it has found is over", function()
    for _, intervals in ipairs({ { connect = "100ms", deep = "1h" }, { connect = "1h" } }) do
      server:play(IMAP)
      follow(intervals)
      server:play(REFUSING)
      report()
      engine.await_verdict(nb, server.port, "dead")
      server:play(IMAP)
      engine.await_verdict(nb, server.port, "alive")
      assert.are.same({ server.port }, engine.ports(nb))
      writer:stop()
      writer = nil
    end
  end)

  it("leaves the server to the writer again once both say the same", function()
    follow({ connect = "1h" })
    server:play(REFUSING)
    report()
    engine.await_verdict(nb, server.port, "dead")
    engine.eventually("this process probes as well", function() return nb.status().probing end)
    server:play(IMAP)
    engine.await_verdict(nb, server.port, "alive")
    engine.eventually("this process follows again", function() return not nb.status().probing end)
  end)
end)
