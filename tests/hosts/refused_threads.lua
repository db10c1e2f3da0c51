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
