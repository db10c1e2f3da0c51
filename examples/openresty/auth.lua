-- Answers nginx's mail proxy: where one login goes. Runs in the access phase.
--
-- The password is not looked at: nginx hands it on, and the backend decides.

local backend = require("nauthilus_backend")

-- nginx escapes spaces and what could end a header.
local function unescape(text)
  return (text:gsub("%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end))
end

-- The same user comes to the same server for as long as that lives.
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
  -- nginx tells the client so, with this code where the protocol has codes, and hangs up.
  ngx.header["Auth-Status"] = "Temporary server problem, try again later"
  ngx.header["Auth-Error-Code"] = "451 4.3.2"
  ngx.log(ngx.ERR, "no ", protocol, " server is alive")
  return
end

ngx.header["Auth-Status"] = "OK"
-- Auth-Server and Auth-Port.
backend.select_backend_server(server.ip, server.port)
-- X-Nauthilus-Account: for whoever logs this answer.
local result = nauthilus_backend_result.new()
result:attributes({ account = user })
backend.apply_backend_result(result)
