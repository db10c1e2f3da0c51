-- A socketmap server for Postfix: over which LMTP server a recipient's mail is delivered. It gives the node that
-- all of the user's sessions go to.
--
-- main.cf:
--   transport_maps = socketmap:inet:127.0.0.1:10045:transport
--
-- Packages of Debian: lua5.4 lua-socket. It runs as a service of its own, and answers one request after the
-- other: without a store each takes microseconds.
--
--   lua5.4 transport.lua /etc/nauthilus_backend.yml [port]

local socket = require("socket")
local nauthilus_backend = require("nauthilus_backend")

-- Longer requests are refused: the protocol's own limit for a request (socketmap_table(5)).
local LONGEST = 100000

nauthilus_backend.configure(arg[1] or "/etc/nauthilus_backend.yml")
nauthilus_backend.start()

-- What a request is answered. "TEMP" makes Postfix keep the mail in its queue and ask again.
local function answer(request)
  local map, key = request:match("^(%S+) (.*)$")
  if map ~= "transport" then
    return "PERM unknown map"
  end
  -- Postfix also asks for the domain alone, and for what precedes an extension of the address.
  if not key:find("@", 1, true) then
    return "NOTFOUND "
  end
  local server, reason = nauthilus_backend.route(key, { protocol = "lmtp" })
  if not server then
    return "TEMP no LMTP server: " .. reason
  end
  local ip = server.ip:find(":", 1, true) and "ipv6:" .. server.ip or server.ip
  return ("OK lmtp:inet:[%s]:%d"):format(ip, server.port)
end

-- A request of netstrings: "5:hello,". Nil where the peer is gone or speaks something else.
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

local listener = assert(socket.bind("127.0.0.1", tonumber(arg[2] or 10045)))
-- The clients that are connected; Postfix keeps several connections open.
local peers = { listener }
while true do
  for _, ready in ipairs(socket.select(peers, nil)) do
    if ready == listener then
      local peer = listener:accept()
      if peer then
        -- A peer that stops in the middle of a request must not keep the others waiting.
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
