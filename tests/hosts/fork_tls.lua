-- Forks while the engine's thread is in the middle of TLS handshakes: no child finds a lock of
-- OpenSSL held by a thread that it does not have. The state file is saved all the while, which
-- takes a digest of OpenSSL's: the engine's thread counts as busy with OpenSSL after it as before.

local tap = require("tap")
local nb = require("nauthilus_backend")

local tls_port = assert(tonumber(arg[1]), "the port of a TLS listener expected")
local forks = tonumber(os.getenv("FORKS")) or 150

local SIGALRM = 14

local servers = {}
for index = 1, 16 do
  servers[index] = {
    protocol = "imap", host = "127.0.0.1", port = tls_port, tls = true,
    tls_server_name = "host" .. index .. ".example.org",
  }
end
local state = os.tmpname()
local function configure(turn)
  -- A target without a verdict: its first one is saved at once.
  servers[17] = {
    protocol = "imap", host = "127.0.0.1", port = tls_port, tls = true,
    tls_server_name = "turn" .. turn .. ".example.org",
  }
  nb.configure({
    connect_interval = "10ms", fast_interval = "10ms", tls_full_handshake_interval = "1s", log = "none",
    state_file = state, backend_servers = servers,
  })
end
configure(0)
nb.start()
assert(nb.wait_ready(60))

local function read_state()
  local file = assert(io.open(state))
  local content = file:read("*a")
  file:close()
  return content
end
local saved_before = read_state()

-- Full handshakes all the time, and a new context with the system's authorities now and then.
local checks = {}
local function keep_busy(turn)
  for index = 1, 4 do
    if not checks[index] or checks[index]:done() then
      checks[index] = nb.start_check("127.0.0.1", tls_port, false, true,
        { tls_server_name = "check" .. index .. ".example.org", coalesce = false })
    end
  end
  if turn % 10 == 0 then
    -- A reload reads the named files again.
    configure(turn)
  end
end

local function child()
  -- A child that blocks is killed, and then counted.
  host.alarm(45)
  local reason = nb.check_backend_connection("127.0.0.1", tls_port, false, true,
    { tls_skip_verify = true, connect_timeout = "20s", tls_timeout = "20s" })
  return reason == nil
end

local took, children, how_many = {}, {}, { ok = 0, hung = 0, other = 0 }
local function reap(at_most)
  while #children > at_most do
    local how, code = host.wait(table.remove(children, 1), 60)
    local key = how == "exit" and code == 0 and "ok" or how == "signal" and code == SIGALRM and "hung" or "other"
    how_many[key] = how_many[key] + 1
  end
end

local turn, latest = 0, nil
local function goes_on()
  if turn < forks then
    return true
  end
  -- A disk that is slow, or busy with others, may need longer for one content than all those turns
  -- take; forks and reloads go on until it is written.
  latest = latest or host.now() + 60
  return read_state() == saved_before and host.now() < latest
end
while goes_on() do
  turn = turn + 1
  keep_busy(turn)
  -- Forks at a different moment of the handshakes each time.
  local pause = host.now() + turn % 23 / 10000
  repeat until host.now() >= pause
  local started = host.now()
  local pid = host.fork()
  if pid == 0 then
    local ok, good = pcall(child)
    host.exit_now(ok and good and 0 or 1)
  end
  took[turn] = host.now() - started
  children[#children + 1] = pid
  reap(4)
end
reap(0)

table.sort(took)
local function ms(seconds)
  return string.format("%.2f ms", seconds * 1000)
end
io.write("# a fork took ", ms(took[math.floor(#took / 2) + 1]), ", at most ", ms(took[#took]), "\n")
tap.check("none of " .. turn .. " children hangs in OpenSSL", how_many.hung == 0, how_many.hung .. " hung")
tap.check("each child makes a TLS check of its own", how_many.other == 0, how_many.other .. " failed")
tap.check("its state file was saved meanwhile", read_state() ~= saved_before)
os.remove(state)
tap.check("the parent goes on probing", tap.eventually(function()
  local before = nb.status().targets[1].probes
  return tap.eventually(function() return nb.status().targets[1].probes > before + 2 end)
end))
