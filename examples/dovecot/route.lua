-- /etc/dovecot/route.lua: a passdb that sends each login to the server that its user belongs on. That server
-- checks the password; this Dovecot stores nothing. For Dovecot 2.3 and 2.4, with and without auth workers.

package.cpath = "/usr/local/lib/lua/5.4/?.so;" .. package.cpath
local nauthilus_backend = require("nauthilus_backend")

-- How this Dovecot speaks TLS to a server, by the server's tls_mode.
local TLS = { implicit = "ssl", starttls = "starttls" }

-- Dovecot calls this when an auth process starts, and in each auth worker. They share the verdicts through the
-- state file that the configuration names, and one of them probes.
function script_init()
  nauthilus_backend.configure("/etc/nauthilus_backend.yml")
  nauthilus_backend.start()
  -- Waits for the first verdicts, so that the first login does not get a dead server. At most two seconds: a server
  -- that does not answer must not delay the users of the others.
  nauthilus_backend.wait_ready(2)
  return 0
end

function auth_passdb_lookup(request)
  -- imap, pop3, lmtp or sieve. Dovecot 2.3 calls the field `service`, 2.4 calls it `protocol`.
  local protocol = request.protocol or request.service
  -- If users may use any server: choose one with this `protocol` from
  --   nauthilus_backend.get_backend_servers() instead.
  local server, reason = nauthilus_backend.route(request.user, { protocol = protocol })
  if not server then
    request:log_error("no " .. protocol .. " server for " .. request.user .. ": " .. reason)
    -- The client is told to try again later.
    return dovecot.auth.PASSDB_RESULT_INTERNAL_FAILURE, "no server is available"
  end
  local fields = {
    nopassword = "y",
    proxy = "y",
    -- `host` is the name that the certificate must contain, `hostip` the address to connect to.
    host = server.host,
    hostip = server.ip,
    port = tostring(server.port),
  }
  if TLS[server.tls_mode] then
    fields[TLS[server.tls_mode]] = "yes"
  end
  return dovecot.auth.PASSDB_RESULT_OK, fields
end
