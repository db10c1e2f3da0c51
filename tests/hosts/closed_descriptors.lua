-- A host whose engine runs closes every descriptor and opens files of its own, which get the
-- numbers: nothing of ours reaches them, status() says what is, and the engine starts again.

local tap = require("tap")
local nb = require("nauthilus_backend")

-- Listeners of another process: this one closes its own.
local alive, silent = assert(tonumber(arg[1])), assert(tonumber(arg[2]))

local function configuration(overrides)
  local config = tap.config({ alive }, overrides)
  config.connect_interval, config.fast_interval = "300ms", "300ms"
  config.backend_servers[1].tls = true
  config.backend_servers[1].tls_skip_verify = true
  config.connect_timeout, config.tls_timeout = "5s", "5s"
  return config
end

local function probes()
  return nb.status().targets[1].probes
end

-- A store that never answers.
local store = { redis = "redis://127.0.0.1:" .. silent, timeout = "10s" }

-- The host closes everything once for each of `pauses`, numbers at which it pauses.
local function a_host(overrides, pauses)
  nb.configure(configuration(overrides))
  assert(nb.wait_ready(60))
  for round = 1, pauses and #pauses or 3 do
    -- These checks stay in flight: nobody answers them.
    local begun = {}
    for index = 1, 8 do
      begun[index] = nb.start_check("127.0.0.1", silent, false, true, { tls_timeout = "1m", coalesce = false })
      begun[index]:fd()
    end
    local route = overrides.cluster and nb.start_route("alice")
    -- The checks have reached the server, so the engine thread sleeps.
    tap.eventually(function() return false end, 0.2)
    local before = probes()
    host.close_all(pauses and pauses[round])
    local files = tap.open_files()
    -- Wakes the engine from this thread, in every way there is.
    nb.report_failure("127.0.0.1", alive)
    begun[1]:cancel()
    local status = nb.status()
    assert(status.running or not status.probing, "it probes without running")
    assert(tap.eventually(function()
      return probes() > before + 3 and nb.status().running
    end), "round " .. round .. ": it does not probe: " .. tostring(nb.status().error))
    assert(nb.status().targets[1].verdict == "alive", nb.status().targets[1].last_error)
    assert(tap.eventually(function()
      for _, check in ipairs(begun) do
        if not check:done() then return false end
      end
      return true
    end), "a check never ends")
    assert(begun[2]:result():find("internal: the host closed the descriptors", 1, true), begun[2]:result())
    if route then
      assert(route:wait(60))
      local server, how = route:result()
      assert(server and server.port == alive and how == "fallback", tostring(how))
    end
    local reason = nb.check_backend_connection("127.0.0.1", alive, false, true, { tls_skip_verify = true })
    assert(reason == nil, reason)
    nb.configure(configuration(overrides))
    begun = nil
    collectgarbage()
    collectgarbage()
    assert(tap.untouched(files))
    for _, file in ipairs(files) do
      file:close()
    end
  end
  return nb.status().error == nil
end

local state = os.tmpname()
tap.in_child("a host that closes the engine's descriptors three times", 60, function()
  return a_host({})
end)
tap.in_child("also with a state file", 60, function()
  return a_host({ state_file = state })
end)
tap.in_child("also with a store, without which its routes are answered then", 60, function()
  return a_host({ cluster = store })
end)
-- The engine that starts meanwhile has descriptors below that number, and above.
for _, number in ipairs({ 4, 8 }) do
  tap.in_child("a host that pauses at number " .. number, 60, function()
    return a_host({ cluster = store }, { number, number })
  end)
end
local log = os.tmpname()
tap.in_child("also with a log", 60, function()
  return a_host({ log = log })
end)
os.remove(state)
os.remove(log)

-- A file of the host's that gets number 2.
local path = os.tmpname()
tap.in_child("no line goes to a file that is no standard error", 20, function()
  nb.configure(configuration({ log = "stderr" }))
  host.close(2)
  local file = assert(io.open(path, "w"))
  file:setvbuf("no")
  file:write("mine")
  nb.configure(tap.config({ 1 }, { log = "stderr" }))
  assert(nb.wait_ready(60))
  -- A line that is still written would be there after so many probes.
  local before = probes()
  assert(tap.eventually(function() return probes() > before + 5 end))
  local content = assert(io.open(path)):read("*a")
  assert(content == "mine", content)
  return true
end)
os.remove(path)
