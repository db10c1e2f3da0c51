-- A socketmap server for Postfix. For each recipient it returns the LMTP server on the node to which all of the user's
-- sessions go.
--
-- main.cf:
--   transport_maps = socketmap:inet:127.0.0.1:10045:transport
--   recipient_delimiter = +
-- /etc/nauthilus_backend.yml of all hosts, if there is a recipient_delimiter; without it mail to alice+box@example.org
-- may go to another node than the sessions of alice@example.org:
--   detail_separator: "+"
--
-- Packages of Debian: lua5.4 lua-socket. Run it as a separate service. It answers one request after the
-- other; without `cluster` an answer takes microseconds.
--
--   lua5.4 transport.lua /etc/nauthilus_backend.yml 10045 example.org example.net
--
-- The arguments after the port are the domains whose mailboxes the LMTP servers have. Postfix asks for every address,
-- also for those that it sends to other sites; for these the answer is that the map has no entry.

local socket = require("socket")
local nauthilus_backend = require("nauthilus_backend")

-- In bytes: the protocol's limit for a request (socketmap_table(5)). Longer requests are refused.
local LONGEST = 100000

local port = tonumber(arg[2])
if not port or #arg < 3 then
  io.stderr:write("usage: transport.lua CONFIGURATION PORT DOMAIN ...\n")
  os.exit(2)
end
local own = {}
for index = 3, #arg do
  own[arg[index]:lower()] = true
end

nauthilus_backend.configure(arg[1])
nauthilus_backend.start()

-- Returns the answer to a request. "TEMP" makes Postfix keep the mail in its queue and ask again.
local function answer(request)
  local map, key = request:match("^(%S+) (.*)$")
  if map ~= "transport" then
    return "PERM unknown map"
  end
  -- Postfix also asks for the domain alone, for "*", and for recipients and senders of other sites.
  local domain = key:match("@([^@]*)$")
  if not domain or not own[domain:lower()] then
    return "NOTFOUND "
  end
  local server, reason = nauthilus_backend.route(key, { protocol = "lmtp" })
  if reason == "no key" then
    -- The address is too long, or `user_key` and the separators leave nothing of it. No user can have it, so there is
    -- nothing to wait for.
    return "OK error:5.1.1 no such user"
  elseif not server then
    return "TEMP no LMTP server: " .. reason
  end
  local ip = server.ip:find(":", 1, true) and "ipv6:" .. server.ip or server.ip
  return ("OK lmtp:inet:[%s]:%d"):format(ip, server.port)
end

-- Reads one request, a netstring such as "5:hello,". Returns nil if the client has disconnected or sends something
-- else.
local function read_request(peer)
  local digits = ""
  while true do
    local char = peer:receive(1)
    if char == ":" then
      break
    elseif not char or not char:find("%d") or #digits > 5 then
      return nil
    end
    digits = digits .. char
  end
  local length = tonumber(digits)
  if not length or length > LONGEST then
    return nil
  end
  local request = peer:receive(length + 1)
  return request and request:sub(-1) == "," and request:sub(1, -2) or nil
end

local listener = assert(socket.bind("127.0.0.1", port))
-- The clients that are connected; Postfix keeps several connections open.
local peers = { listener }
while true do
  for _, ready in ipairs(socket.select(peers, nil)) do
    if ready == listener then
      local peer = listener:accept()
      if peer then
        -- A client that stops in the middle of a request must not block the others.
        peer:settimeout(1)
        peers[#peers + 1] = peer
      end
    else
      local request = read_request(ready)
      local reply = request and answer(request)
      if not reply or not ready:send(#reply .. ":" .. reply .. ",") then
        ready:close()
        for index, peer in ipairs(peers) do
          if peer == ready then
            table.remove(peers, index)
            break
          end
        end
      end
    end
  end
end
