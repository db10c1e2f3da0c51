-- A child that closes every descriptor and opens files of its own, as a daemon does that starts:
-- nothing of ours touches them, whatever numbers they got. And forks at any moment.

local tap = require("tap")
local nb = require("nauthilus_backend")

local port = host.listen(1024)
local silent = host.listen(0)
host.fill(silent)
local state = os.tmpname()
nb.configure(tap.config({ port, silent }, { state_file = state, connect_timeout = "200ms" }))
assert(nb.wait_ready(60))

local function verdict_of(index)
  local target = nb.status().targets[index]
  return target.verdict, target.probes
end

-- Checks whose descriptors the child inherits: one that is done, and two in flight.
local done = nb.start_check("127.0.0.1", port, false, false)
done:fd()
assert(done:wait(60))
local dropped = nb.start_check("127.0.0.1", silent, false, false, { connect_timeout = "1m" })
dropped:fd()
local cancelled = nb.start_check("127.0.0.1", silent, false, false, { connect_timeout = "1m", coalesce = false })
cancelled:fd()

-- With a state file the child follows its parent through that; without, it probes by itself.
local function closes_everything(probes_itself)
  host.close_all()
  local files = {}
  for index = 1, 60 do
    files[index] = assert(io.tmpfile())
    files[index]:setvbuf("no")
    files[index]:write("mine ", index)
  end
  cancelled:cancel()
  done, dropped, cancelled = nil, nil, nil
  collectgarbage()
  collectgarbage()
  local _, before = verdict_of(1)
  nb.report_failure("127.0.0.1", port)
  local probes = tap.eventually(function()
    local verdict, now = verdict_of(1)
    return verdict == "alive" and now >= before + 3 and nb.status().probing == probes_itself
  end)
  local checked = nb.check_backend_connection("127.0.0.1", port, false, false)
  nb.configure(tap.config({ port }, { log = "none" }))
  nb.stop()
  for index, file in ipairs(files) do
    assert(file:seek("set"))
    local content = file:read("*a")
    assert(content == "mine " .. index, index .. " holds " .. tostring(content))
    assert(file:write("!"), index .. " was closed")
  end
  return probes and checked == nil
end

tap.in_child("a child that closed all descriptors keeps its own files to itself", 20, function()
  return closes_everything(false)
end)
tap.check("the parent's checks are still its own", not dropped:done() and done:done())
tap.check("and the parent still probes", tap.eventually(function()
  local _, before = verdict_of(1)
  return tap.eventually(function()
    local _, now = verdict_of(1)
    return now > before
  end, 10)
end))

nb.configure(tap.config({ port, silent }, { connect_timeout = "200ms" }))
assert(nb.wait_ready(60))
tap.in_child("also one that has no state file", 20, function()
  return closes_everything(true)
end)

-- A child exits without delay, by whichever way.
for how, leave in pairs({
  ["os.exit"] = function() os.exit(7) end,
  ["os.exit that closes the state"] = function() os.exit(7, true) end,
  ["_exit"] = function() host.exit_now(7) end,
}) do
  local took = math.huge
  -- A busy machine delays one attempt, and not five.
  for _ = 1, 5 do
    local pid = host.fork()
    if pid == 0 then
      leave()
    end
    local started = host.now()
    local ended, code = host.wait(pid, 60)
    took = math.min(took, host.now() - started)
    if took < 0.5 or ended ~= "exit" then
      tap.check("a child that does nothing leaves by " .. how,
        ended == "exit" and (code == 7 or code == 0), ended .. " " .. code)
      break
    end
  end
  tap.check("at once", took < 0.5, took)
end

-- Forks while other threads are in the middle of calls of the module.
local busy = [[
  local nb = require("nauthilus_backend")
  local port = tonumber(argument)
  local stop = os.time() + 4
  local turn = 0
  while os.time() < stop do
    turn = turn + 1
    nb.configure({
      connect_interval = (turn % 5 + 1) * 10 .. "ms", log = "none",
      backend_servers = { { protocol = "imap", host = "127.0.0.1", port = port } },
    })
    for _ = 1, 50 do assert(#nb.get_backend_servers() <= 1) end
    nb.check_backend_connection("127.0.0.1", port, false, false)
    if turn % 7 == 0 then nb.stop() end
    nb.status()
  end
]]
local argument = tostring(port)
for _ = 1, 3 do
  host.background(busy, argument)
end
local failed = {}
local forks = 0
local deadline = host.now() + 3
-- A machine that stands still meanwhile has made fewer of them, and makes the rest later.
while host.now() < deadline or forks <= 5 do
  forks = forks + 1
  local pid = host.fork()
  if pid == 0 then
    local listed = #nb.get_backend_servers()
    nb.configure(tap.config({ port }, { connect_interval = "77ms" }))
    local ready = nb.wait_ready(60)
    local reason = nb.check_backend_connection("127.0.0.1", port, false, false)
    host.exit_now(listed <= 2 and ready and reason == nil and 0 or 1)
  end
  local how, code = host.wait(pid, 60)
  if how ~= "exit" or code ~= 0 then
    failed[#failed + 1] = how .. " " .. code
  end
end
tap.check("children forked in the middle of anything work", #failed == 0 and forks > 5,
  #failed .. " of " .. forks .. ": " .. table.concat(failed, ", "))
tap.eventually(function()
  return not host.now() or host.now() > deadline + 2
end)
nb.stop()
os.remove(state)
