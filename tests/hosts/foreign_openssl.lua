-- A library with OpenSSL's functions that is not OpenSSL, though its file is called so: TLS is refused before the first
-- call, and all else works.

local tap = require("tap")
local nb = require("nauthilus_backend")

local refusal = "TLS is not possible in this process: OpenSSL's SSL_CTX_new is that of "
local port = host.listen(128)
local verified = { protocol = "imap", host = "127.0.0.1", port = port, tls = true }
local accepted, problem = pcall(nb.configure, tap.config({}, { backend_servers = { verified } }))
tap.check("configure refuses TLS", not accepted
  and problem:find("backend_servers[1].tls: " .. refusal, 1, true) ~= nil, problem)
tap.check("and names the library", not accepted and problem:find("/libssl.so, which", 1, true) ~= nil, problem)
problem = nb.check_backend_connection(verified)
tap.check("a check with TLS says so", problem and problem:find("internal: " .. refusal, 1, true) == 1, problem)
nb.configure(tap.config({ port }))
tap.check("a server without TLS is probed", tap.eventually(function()
  return nb.status().targets[1].verdict == "alive"
end), nb.status().targets[1].last_error)
