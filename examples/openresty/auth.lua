-- Answers nginx's mail proxy: where one login goes. Runs in the access phase.
--
-- The script does not check the password: nginx passes it on, and the backend checks it.

local backend = require("nauthilus_backend")

-- nginx percent-encodes spaces and control characters in these headers.
local function unescape(text)
  return (text:gsub("%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end))
end

-- The same user gets the same server while the list stays the same.
local function choose(candidates, user)
  return candidates[ngx.crc32_short(user) % #candidates + 1]
end

local user = unescape(ngx.var.http_auth_user or "")
local protocol = ngx.var.http_auth_protocol

local candidates = {}
for _, server in ipairs(backend.get_backend_servers()) do
  if server.protocol == protocol then
    candidates[#candidates + 1] = server
  end
end

local server = #candidates > 0 and choose(candidates, user)
if not server then
  -- nginx sends this text to the client, with the code if the protocol has codes, and closes the connection.
  ngx.header["Auth-Status"] = "Temporary server problem, try again later"
  ngx.header["Auth-Error-Code"] = "451 4.3.2"
  ngx.log(ngx.ERR, "no ", protocol, " server is alive")
  return
end

ngx.header["Auth-Status"] = "OK"
-- Auth-Server and Auth-Port.
backend.select_backend_server(server.ip, server.port)
-- X-Nauthilus-Account: for programs that log this answer.
local result = nauthilus_backend_result.new()
result:attributes({ account = user })
backend.apply_backend_result(result)
