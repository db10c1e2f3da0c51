-- /etc/lighttpd/auth_http.lua: answers `auth_http` of nginx's mail proxy. lighttpd's mod_magnet runs this file for each
-- request, in one Lua state that it keeps, as the user of lighttpd.

local nauthilus_backend = require("nauthilus_backend")

-- The first request configures the module and starts the probes. wait_ready blocks lighttpd for at most half a second.
if not package.loaded["mail servers"] then
  nauthilus_backend.configure("/etc/nauthilus_backend.yml")
  package.loaded["mail servers"] = true
  nauthilus_backend.wait_ready(0.5)
end

local request, answer = lighty.r.req_header, lighty.r.resp_header

-- In these headers nginx percent-encodes control characters, spaces and "%".
local user = (request["Auth-User"] or ""):gsub("%%(%x%x)", function(code)
  return string.char(tonumber(code, 16))
end)
local protocol = request["Auth-Protocol"] or ""
-- Response codes that tell a client that its password is not wrong: RFC 5530 for IMAP, RFC 3206 for POP3.
local codes = { imap = "[UNAVAILABLE] ", pop3 = "[SYS/TEMP] " }

local server, why
if user:find("%c") then
  -- No user has a name with control characters.
  why = "no key"
else
  server, why = nauthilus_backend.route(user, { protocol = protocol })
end
if server then
  local context = nauthilus_backend.new_context()
  nauthilus_backend.with_context(context, nauthilus_backend.select_backend_server, server.ip, server.port)
  answer["Auth-Status"] = "OK"
  -- Sets Auth-Server and Auth-Port.
  for name, value in context:each_header() do
    answer[name] = value
  end
elseif why == "no key" then
  -- The name is empty, too long or has control characters: it is no user's.
  answer["Auth-Status"] = "Invalid login or password"
  answer["Auth-Error-Code"] = "535 5.7.8"
else
  -- nginx sends this text to the client and closes the connection. The code is for SMTP.
  answer["Auth-Status"] = (codes[protocol] or "") .. "Temporary server problem, try again later"
  answer["Auth-Error-Code"] = "451 4.3.2"
end
return 204
