-- The groups that a probe offers when it resumes a session, against `openssl s_server`. The policy of
-- `openssl.cnf` allows P-521, which it prefers, and X25519. Prints TAP;
-- `OPENSSL_CONF=policy.cnf lua groups.lua` from the project's root.

local control = require("spec.support.control")
local nb = require("nauthilus_backend")
local tap = require("tests.lib.tap")

local check = tap.check
local POLICY, CHEAPEST = "secp521r1:x25519", "x25519"

-- What the server says of each handshake: the groups that the client offered, whether a session was
-- resumed, and the errors. (One from before the first handshake is of the connection that asks whether the
-- server listens.)
local function handshakes(path)
  local file = assert(io.open(path))
  local found = {}
  for line in file:lines() do
    local groups = line:match("^Supported groups: (.*)$")
    if groups then
      found[#found + 1] = groups:lower()
    elseif line:find("^Reused") then
      found[#found] = "resumed with " .. found[#found]
    elseif line:find("^ERROR") and #found > 0 then
      found[#found + 1] = "failed"
    end
  end
  file:close()
  return found
end

local servers = control.start("openssl.py")
local folder = servers:call("certificates").folder

-- Probes a server that supports these groups until it has answered `count` probes, and checks that the
-- first handshakes were `expected` and all later ones like the last of these.
local function run(name, groups, expected)
  local server = servers:call("start", { version = "1.3", groups = groups })
  nb.configure({
    log = "none", connect_interval = "200ms", fast_interval = "200ms", backend_servers = { {
      protocol = "imap", host = "127.0.0.1", port = tonumber(server.port),
      tls = true, tls_ca_file = folder .. "/ca.crt",
    } },
  })
  nb.start()
  local last = expected[#expected]
  local deadline = os.time() + 60
  local found, resumed
  repeat
    os.execute("sleep 0.2")
    found, resumed = handshakes(server.log), 0
    for _, handshake in ipairs(found) do
      resumed = resumed + (handshake == last and 1 or 0)
    end
  until resumed >= 4 or os.time() > deadline
  local target = nb.status().targets[1]
  nb.stop()
  local shown = table.concat(found, ", ")
  check(name .. ": is alive", target.verdict == "alive" and target.failures == 0, target.last_error)
  -- A busy machine may miss a ticket, so that one more handshake is a full one.
  local at = 1
  for index, handshake in ipairs(expected) do
    while index > 1 and found[at] == expected[1] and handshake ~= expected[1] do
      at = at + 1
    end
    check(("%s: handshake %d is %s"):format(name, index, handshake), found[at] == handshake, shown)
    at = at + 1
  end
end

run("a server with both groups", "P-521:X25519", { POLICY, "resumed with " .. CHEAPEST })
run("a server without the cheapest", "P-521", { POLICY, "failed", POLICY, "resumed with " .. POLICY })
servers:stop()
os.exit(tap.failures == 0)
