-- Stopping ends the engine thread, and no check that somebody waits for.

local tap = require("tap")
local nb = require("nauthilus_backend")

local port = host.listen(128)
local silent = host.listen(0)
host.fill(silent)
nb.configure(tap.config({ port }))

local function no_thread_left()
  return tap.eventually(function() return host.count("/proc/self/task") == 1 end)
end

local function check(of_port, timeout)
  return nb.start_check("127.0.0.1", of_port, false, false, { connect_timeout = timeout, coalesce = false })
end

for _, how in ipairs({ "configured", "started" }) do
  if how == "started" then
    nb.start()
    assert(nb.wait_ready(30))
  end
  local good, slow = check(port, "5s"), check(silent, "400ms")
  nb.stop()
  local started = host.now()
  tap.check(how .. ": a check that was begun before a stop ends as it would have",
    good:wait(30) and good:result() == nil, good:result())
  tap.check(how .. ": one that fails, too",
    slow:wait(30) and slow:result() == "connect: timed out after 400ms", slow:result())
  tap.check(how .. ": within its time", host.now() - started < 20, host.now() - started)
  tap.check(how .. ": the thread ends after them", no_thread_left())
end

local cancelled = check(silent, "1m")
nb.stop()
cancelled:cancel()
tap.check("a check that is called off holds no thread", no_thread_left())

-- Nobody waits for it any more.
check(silent, "1m")
nb.stop()
collectgarbage()
collectgarbage()
tap.check("nor does one that is forgotten", no_thread_left())

-- The thread is there again for that check alone.
nb.stop()
assert(no_thread_left())
local late = check(port, "5s")
tap.check("a check after a stop is made", late:wait(30) and late:result() == nil, late:result())
tap.check("and the thread ends after it", no_thread_left())

local kept = check(silent, "500ms")
nb.stop()
nb.start()
tap.check("a new start meets a check of before",
  nb.wait_ready(30) and kept:wait(60) and kept:result() == "connect: timed out after 500ms",
  kept:result())
tap.check("and the engine thread runs", nb.status().running and #nb.get_backend_servers() == 1)
nb.stop()
tap.check("no thread is left", no_thread_left())
