-- Chooses the server of a login, as the script of an `auth_http` service does for each login.
--
-- It takes the servers that are alive and speak the client's protocol, and selects one: the same user gets the
-- same server while the list stays the same. The selection becomes response headers, which the host reads from
-- the request context.

dynamic_loader("nauthilus_backend")
local nauthilus_backend = require("nauthilus_backend")

-- Returns a number that depends on the user's name only.
local function hash(text)
  local sum = 5381
  for index = 1, #text do
    sum = (sum * 33 + text:byte(index)) % 2147483647
  end
  return sum
end

-- `login` is a table such as { username = "user@example.org", protocol = "imap" }. Returns true if there is a
-- server for it, else nil and the reason.
local function route(login)
  -- Health checks log in through the same service. If they were rejected while no server is alive, no
  -- server would ever count as alive again.
  if nauthilus_backend.is_health_check(login.username) then
    return true
  end

  local candidates = {}
  for _, server in ipairs(nauthilus_backend.get_backend_servers()) do
    if server.protocol == login.protocol then
      table.insert(candidates, server)
    end
  end
  if #candidates == 0 then
    return nil, "no " .. login.protocol .. " server is alive"
  end

  local server = candidates[hash(login.username) % #candidates + 1]

  -- Response headers Auth-Server and Auth-Port: where nginx's mail proxy connects to.
  nauthilus_backend.select_backend_server(server.ip, server.port)

  -- More response headers, X-Nauthilus-Hostip and X-Nauthilus-Account here.
  local result = nauthilus_backend_result.new()
  result:attributes({ hostip = server.ip, account = login.username })
  nauthilus_backend.apply_backend_result(result)

  -- The user database has an attribute that names a server; it must not become a header.
  nauthilus_backend.remove_from_backend_result({ "Proxy-Host" })
  return true
end

return route
