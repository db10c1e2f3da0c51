-- Answers nginx's mail proxy (auth_http): says which server a login goes to. Runs in the access phase.
--
-- The script does not check the password: nginx sends it to the backend, which checks it.

local backend = require("nauthilus_backend")

-- In these headers nginx percent-encodes control characters, spaces and "%", and nothing else: quotes, "+" and letters
-- outside ASCII are as the client has sent them.
local function unescape(text)
  return (text:gsub("%%(%x%x)", function(code)
    return string.char(tonumber(code, 16))
  end))
end

-- Response codes that tell a client that its password is not wrong: RFC 5530 for IMAP, RFC 3206 for POP3.
local codes = { imap = "[UNAVAILABLE] ", pop3 = "[SYS/TEMP] " }

local user = unescape(ngx.var.http_auth_user or "")
local protocol = ngx.var.http_auth_protocol or ""

local server, why
if user:find("%c") then
  -- No user has a name with control characters, and a response header could not contain such a name.
  why = "no key"
else
  -- All sessions of a user, over every protocol, go to one node.
  server, why = backend.route(user, { protocol = protocol })
end

if why == "no key" then
  -- The name is empty, too long or has control characters: it is no user's.
  ngx.header["Auth-Status"] = "Invalid login or password"
  ngx.header["Auth-Error-Code"] = "535 5.7.8"
  return
elseif not server then
  -- nginx sends this text to the client and closes the connection. The code is for SMTP.
  ngx.header["Auth-Status"] = (codes[protocol] or "") .. "Temporary server problem, try again later"
  ngx.header["Auth-Error-Code"] = "451 4.3.2"
  ngx.log(ngx.ERR, "no ", protocol, " server for this user: ", why)
  return
end

ngx.header["Auth-Status"] = "OK"
-- Sets Auth-Server and Auth-Port.
backend.select_backend_server(server.ip, server.port)
-- Sets X-Nauthilus-Account, for programs that log this answer. nginx's mail proxy reads no more than 1,024 bytes of an
-- answer, and with a longer one lets the client wait until auth_http_timeout.
if #user <= 256 then
  local result = nauthilus_backend_result.new()
  result:attributes({ account = user })
  backend.apply_backend_result(result)
end
