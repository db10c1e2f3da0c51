-- Where a login goes: the kind of script an `auth_http` service runs for each login.
--
-- It lists the servers that are alive, keeps those that speak the client's protocol, picks one
-- (the same user comes to the same server for as long as that lives), and says so. What it
-- says becomes response headers; the host reads them from the request context.

dynamic_loader("nauthilus_backend")
local nauthilus_backend = require("nauthilus_backend")

-- A number that depends on the user's name only.
local function hash(text)
  local sum = 5381
  for index = 1, #text do
    sum = (sum * 33 + text:byte(index)) % 2147483647
  end
  return sum
end

-- login: { username = "user@example.org", protocol = "imap" }. Returns true when there is a
-- server for it, else nil and the reason.
local function route(login)
  -- The health checks log in through the same service. Were they turned away while no server
  -- is alive, none would ever count as alive again.
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

  -- What the user database had to say about a server is overruled.
  nauthilus_backend.remove_from_backend_result({ "Proxy-Host" })
  return true
end

return route
