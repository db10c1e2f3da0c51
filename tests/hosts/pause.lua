-- A process that is stopped and goes on later (a shell's job control, a debugger, a machine that
-- sleeps) takes no healthy server for a dead one.

local tap = require("tap")
local nb = require("nauthilus_backend")

local tls, plain, slow = assert(tonumber(arg[1])), assert(tonumber(arg[2])), assert(tonumber(arg[3]))

local SIGSTOP, SIGCONT = 19, 18
local PAUSES = 5

local function wait(seconds)
  local started = host.now()
  tap.eventually(function() return host.now() - started > seconds end, 30)
end

-- The number of servers that failed a probe; a child with these limits, in seconds, exits with it.
local function watch(limit, pause)
  local function target(fields)
    fields.host, fields.protocol = fields.host or "127.0.0.1", "imap"
    for _, key in ipairs({ "connect_timeout", "tls_timeout", "deep_timeout" }) do
      fields[key] = limit
    end
    return fields
  end
  nb.configure({
    connect_interval = "20ms", fast_interval = "20ms", log = "none", tls_full_handshake_interval = "1s",
    backend_servers = {
      target({ port = plain }),
      target({ port = plain, host = "localhost" }),
      target({ port = tls, tls = true, tls_skip_verify = true }),
      -- The greeting comes one byte at a time, so that a pause nearly always comes in the middle of a probe.
      target({ port = slow, deep_check = true, test_username = "probe", test_password = "x" }),
    },
  })
  assert(nb.wait_ready(60))
  wait(PAUSES * (pause + 0.2) + 1)
  local failed = {}
  for _, one in ipairs(nb.status().targets) do
    if one.verdict ~= "alive" or one.failures > 0 then
      failed[#failed + 1] = ("%s: %s, %d of %d failed: %s"):format(one.key, one.verdict, one.failures, one.probes,
        tostring(one.last_error))
    end
  end
  for _, what in ipairs(failed) do
    io.write("# ", what, "\n")
  end
  io.flush()
  host.exit_now(#failed)
end

-- A busy machine may be later than the limits without any pause: the test is then repeated with longer ones.
-- If pauses counted, it would fail with each.
local how, code
for _, limit in ipairs({ 0.5, 1, 2 }) do
  -- The pause is longer than any of the limits.
  local pause = limit + 0.3
  local child = host.fork()
  if child == 0 then
    host.alarm(60)
    watch(limit, pause)
  end
  wait(0.8)
  for turn = 1, PAUSES do
    host.kill(child, SIGSTOP)
    wait(pause)
    host.kill(child, SIGCONT)
    wait(0.1 + turn % 5 / 50)
  end
  how, code = host.wait(child, 60)
  if how == "exit" and code == 0 then
    break
  end
end
tap.check("no deadline that passed during a pause counts",
  how == "exit" and code == 0, how .. " " .. code .. " servers")
