-- A host with a state file that the command talks to: engine.lua CONFIG READY. Runs until it is killed.
local nauthilus_backend = require("nauthilus_backend")
nauthilus_backend.configure(arg[1])
nauthilus_backend.start()
nauthilus_backend.wait_ready(30)
io.open(arg[2], "w"):close()
-- Answers with the state of its first target and of the list, when asked on standard input.
for _ in io.lines() do
  local target = nauthilus_backend.status().targets[1]
  print(target.state .. " " .. #nauthilus_backend.get_backend_servers())
  io.stdout:flush()
end
