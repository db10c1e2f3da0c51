-- The log as a user sees it.

local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")

describe("the log", function()
  local world

  lazy_setup(function()
    world = peers.new()
  end)

  lazy_teardown(function()
    world:stop()
  end)

  -- A process whose one target is dead, with `log` as given, a Lua expression.
  local function script(port, log)
    return ([[
      local nb = require("nauthilus_backend")
      nb.configure({
        connect_interval = "20ms", fast_interval = "20ms", log = %s,
        backend_servers = { { protocol = "imap", host = "127.0.0.1", port = %d } },
      })
      assert(nb.wait_ready(60))
      -- Another thread writes the line; by the time of a few more probes it has been written.
      while nb.status().targets[1].probes < 25 do end
      print("done")
    ]]):format(log, port)
  end

  local function lines_of(text)
    local lines = {}
    for line in text:gmatch("[^\n]+") do
      lines[#lines + 1] = line
    end
    return lines
  end

  local function check_line(line, port)
    assert.matches("^%d%d%d%d%-%d%d%-%d%dT%d%d:%d%d:%d%d%.%d%d%dZ warning event=target_down target=imap://127%.0%.0%.1:"
      .. port .. ' reason="connect: [^"]+" after=1 was=unknown$', line)
  end

  it("goes to standard error where nothing else is said", function()
    local port = world:closed_port()
    local output, ok = interpreter.run(script(port, "nil"))
    assert.is_true(ok, output)
    local lines = lines_of(output)
    table.sort(lines)
    assert.are.equal(2, #lines, output)
    check_line(lines[1], port)
    assert.are.equal("done", lines[2])
  end)

  it("goes to a file", function()
    local port = world:closed_port()
    local path = world:folder() .. "/a.log"
    local output, ok = interpreter.run(script(port, string.format("%q", path)))
    assert.is_true(ok, output)
    assert.are.equal("done\n", output)
    local file = assert(io.open(path))
    local lines = lines_of(file:read("*a"))
    file:close()
    assert.are.equal(1, #lines)
    check_line(lines[1], port)
  end)

  it("goes on in the file that is open where a rotated one cannot be opened again, and says so", function()
    local folder = world:folder()
    local port = world:closed_port()
    local output, ok = interpreter.run(([[
      local folder = %q
      assert(os.execute("mkdir " .. folder .. "/log"))
      local nb = require("nauthilus_backend")
      local config = {
        connect_interval = "20ms", fast_interval = "20ms", log = folder .. "/log/x",
        backend_servers = { { protocol = "imap", host = "127.0.0.1", port = %d } },
      }
      nb.configure(config)
      assert(#nb.status().warnings == 0)
      -- The file is gone, and no other can be made in its place.
      assert(os.rename(folder .. "/log", folder .. "/old"))
      assert(nb.wait_ready(60))
      local warning
      repeat warning = nb.status().warnings[1] until warning
      assert(warning:find("^log: .*/log/x cannot be opened again %%(.*lines go on to the file that was open$"), warning)
      repeat
        local file = io.open(folder .. "/old/x")
        local text = file and file:read("*a") or ""
        if file then file:close() end
      until text:find("event=target_down", 1, true)
      -- The same configuration opens the file again as soon as that is possible.
      assert(os.execute("mkdir " .. folder .. "/log"))
      nb.configure(config)
      assert(#nb.status().warnings == 0 and io.open(folder .. "/log/x"))
      print("done")
    ]]):format(folder, port))
    assert.is_true(ok, output)
    assert.are.equal("done\n", output)
  end)

  it("counts the lines that are lost, and says so once on standard error", function()
    local port = world:closed_port()
    local output, ok = interpreter.run(([[
      local nb = require("nauthilus_backend")
      nb.configure({
        connect_interval = "20ms", fast_interval = "20ms", log = "/dev/full",
        backend_servers = {
          { protocol = "imap", host = "127.0.0.1", port = %d },
          { protocol = "pop3", host = "127.0.0.1", port = %d },
        },
      })
      assert(nb.wait_ready(60))
      local warning
      repeat warning = nb.status().warnings[1] until warning and warning:find("log: 2 lines", 1, true)
      assert(warning:find("No space left", 1, true), warning)
    ]]):format(port, port))
    assert.is_true(ok, output)
    assert.matches("^nauthilus_backend: log lines to /dev/full are lost: No space left[^\n]*\n$", output)
  end)

  it("goes nowhere when it is told so", function()
    local output, ok = interpreter.run(script(world:closed_port(), '"none"'))
    assert.is_true(ok, output)
    assert.are.equal("done\n", output)
  end)

  it("holds up neither probes nor the exit where nobody reads standard error", function()
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(script(world:closed_port(), '"stderr"'))
    file:close()
    local program = [=[
import fcntl, os, subprocess, sys, time
reader, writer = os.pipe()
os.set_blocking(writer, False)
try:
    while True:
        os.write(writer, b"x" * 4096)
except BlockingIOError:
    pass
os.set_blocking(writer, True)
started = time.monotonic()
done = subprocess.run([sys.argv[1], sys.argv[2]], stdout=subprocess.PIPE, stderr=writer, timeout=60)
print(done.returncode, done.stdout.decode().strip(), time.monotonic() - started < 20)
]=]
    local cpath = interpreter.module_path():gsub("nauthilus_backend%.so$", "?.so")
    local pipe = assert(io.popen(string.format("LUA_INIT= LUA_CPATH='%s' python3 -c '%s' %s %s 2>&1",
      cpath, program, interpreter.abi, path)))
    local output = pipe:read("*a")
    pipe:close()
    os.remove(path)
    assert.are.equal("0 done True\n", output)
  end)
end)
