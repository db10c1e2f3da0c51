-- Where the system gives no memory for a thread, status() says so, and all is well once it does.

local tap = require("tap")
local nb = require("nauthilus_backend")

local port = host.listen(4096)

tap.in_child("a thread that the system refuses is an error in status()", 20, function()
  nb.configure(tap.config({ port }))
  -- Less than the stack of the engine's thread.
  host.limit_memory(600)
  local listed = #nb.get_backend_servers()
  local status = nb.status()
  host.unlimit_memory()
  assert(listed == 1, "the initial state counts")
  assert(not status.running and not status.probing)
  assert(status.error and status.error:find("cannot start", 1, true), status.error)
  assert(tap.eventually(function()
    return nb.status().running and nb.status().error == nil
  end), nb.status().error)
  return nb.wait_ready(5)
end)

-- Two copies of the library share no engine: one whose start failed leaves it to the other.
tap.in_child("a start that fails gives the engine of the process back", 20, function()
  local file = os.getenv("LUA_CPATH"):gsub(";.*", ""):gsub("%?", "nauthilus_backend")
  assert(not host.holds_engine(file))
  host.limit_memory(600)
  local started, reason = nb.start()
  host.unlimit_memory()
  assert(not started and reason:find("cannot start", 1, true), reason)
  assert(not host.holds_engine(file), "it keeps its claim")
  nb.start()
  return host.holds_engine(file)
end)
