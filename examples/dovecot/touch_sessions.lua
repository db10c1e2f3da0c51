-- Reports the sessions that are open on the mail servers, so that the bindings of their users do not end. Without
-- reports a binding ends `retention` after the user's last login, although the session may still be open.
--
-- Run it on one machine, as the user to whom the folder of the `state_file` belongs: with the files of this folder that
-- is `dovecot`, the user of the auth processes. (Without a `state_file` any user will do.) Only that user may read the
-- key. In /etc/cron.d/touch-sessions:
--
--   */5 * * * *  dovecot  lua5.4 /usr/local/bin/touch_sessions.lua /etc/nauthilus_backend.yml
--                         /etc/doveadm-api-key mail1=192.0.2.11:8080 mail2=192.0.2.12:8080
--
-- (in one line). With `retention: 15m` in the configuration two reports in a row may fail before bindings end. Each
-- mail server needs doveadm-http.conf of this folder. If the sessions of a node could not be reported, the script
-- ends with status 1; it reports those of the other nodes all the same.
--
-- Packages of Debian: lua5.4 lua-socket lua-cjson

local http = require("socket.http")
local json = require("cjson.safe")
local ltn12 = require("ltn12")
local mime = require("mime")
local nauthilus_backend = require("nauthilus_backend")

http.TIMEOUT = 10

local failed = false
local function complain(text)
  failed = true
  io.stderr:write("touch_sessions: ", text, "\n")
end

-- Returns the users with a session on a node, each once; or nil and the reason.
local function users_of(address, key)
  -- Asks for one row per session. In the form with one row per user, Dovecot 2.3 returns fields of the wrong user.
  local body, pieces = '[["who", { "separateConnections": true }, "who"]]', {}
  local done, status = http.request({
    url = "http://" .. address .. "/doveadm/v1",
    method = "POST",
    headers = {
      ["Authorization"] = "X-Dovecot-API " .. mime.b64(key),
      ["Content-Type"] = "application/json",
      ["Content-Length"] = tostring(#body),
    },
    source = ltn12.source.string(body),
    sink = ltn12.sink.table(pieces),
  })
  if not done or status ~= 200 then
    return nil, "doveadm answered " .. tostring(status)
  end
  local answer = json.decode(table.concat(pieces))
  local first = type(answer) == "table" and answer[1]
  if type(first) ~= "table" or first[1] ~= "doveadmResponse" then
    return nil, "unexpected answer of doveadm"
  end
  local users, known = {}, {}
  for _, session in ipairs(first[2]) do
    local user = session.username
    if type(user) == "string" and not known[user] then
      known[user] = true
      users[#users + 1] = user
    end
  end
  return users
end

-- The first call of a process also connects to Redis, which may take longer than `timeout`.
local function touch(users, node)
  local count, reason
  for _ = 1, 10 do
    count, reason = nauthilus_backend.touch_users(users, node)
    if count or reason ~= "store unavailable" then
      break
    end
    require("socket").sleep(0.3)
  end
  return count, reason
end

local configuration, key_file = arg[1], arg[2]
if #arg < 3 then
  io.stderr:write("usage: touch_sessions.lua CONFIGURATION KEY-FILE NODE=HOST:PORT ...\n")
  os.exit(2)
end
local file = assert(io.open(key_file))
local key = assert(file:read("*l"), key_file .. " is empty")
file:close()
nauthilus_backend.configure(configuration)

for index = 3, #arg do
  local node, address = arg[index]:match("^(.-)=(.+)$")
  local users, reason
  if node then
    users, reason = users_of(address, key)
  else
    node, reason = arg[index], "NODE=HOST:PORT expected"
  end
  local count
  if users then
    count, reason = touch(users, node)
  end
  if count then
    print(("%s: %d users with sessions, %d of them bound there"):format(node, #users, count))
  else
    complain(node .. ": " .. reason)
  end
end
nauthilus_backend.stop()
os.exit(not failed)
