-- Names and authorities in a host that changes its root directory after the configuration, as
-- HAProxy does.

local tap = require("tap")
local nb = require("nauthilus_backend")

if host.user() ~= 0 then
  tap.check("# SKIP: only root may change its root directory", true)
  return
end

local port = host.listen(1024)
local root = arg[4] .. "/root"
assert(os.execute("rm -rf '" .. root .. "' && mkdir -p '" .. root .. "/etc' '" .. root .. "/empty'"))

local function write(path, text)
  local file = assert(io.open(path, "w"))
  file:write(text)
  file:close()
end

local function target(name, others)
  local settings = { protocol = "imap", host = name, port = port }
  for key, value in pairs(others or {}) do
    settings[key] = value
  end
  return settings
end

local function verdicts()
  local seen = {}
  for index, one in ipairs(nb.status().targets) do
    seen[index] = one.verdict
  end
  return table.concat(seen, " ")
end

local function become(wanted)
  return tap.eventually(function()
    return verdicts() == wanted
  end)
end

local function told()
  local lines = { verdicts() }
  for _, one in ipairs(nb.status().targets) do
    lines[#lines + 1] = one.key .. ": " .. tostring(one.last_error)
  end
  return table.concat(lines, "\n")
end

-- The names of this world: a hosts file and a name server.
local hosts = "127.0.0.1 in-file.test in-file\n127.0.0.2 moved.test\n"
write(root .. "/etc/hosts", hosts)
write(root .. "/etc/nsswitch.conf", "hosts: files dns\n")
local servers = "nameserver " .. os.getenv("NAME_SERVER") .. "\nsearch corp.test\noptions timeout:1 attempts:1\n"

tap.in_child("with a hosts file and a name server", 60, function()
  write(root .. "/etc/resolv.conf", servers)
  host.change_root(root)
  nb.configure(tap.config({}, { connect_timeout = "3s", backend_servers = {
    target("in-file.test"), target("mail.dns.test"), target("short"), target("gone.dns.test"),
    target("imap.prod.test"), target("imap.prod.test."), target("in-file."),
  } }))
  host.change_root("/empty")
  nb.start()
  tap.check("names are found in another root directory", become("alive alive alive dead alive dead alive"), told())
  local listed = nb.get_backend_servers()
  tap.check("and a trailing dot is no part of a server's host", listed[5].host == "in-file", listed[5].host)
  return true
end)

tap.in_child("with a hosts file alone", 60, function()
  os.remove(root .. "/etc/resolv.conf")
  host.change_root(root)
  nb.configure(tap.config({}, { backend_servers = { target("in-file.test"), target("elsewhere.test") } }))
  host.change_root("/empty")
  nb.start()
  tap.check("what can be found is found", tap.eventually(function()
    return nb.status().targets[1].verdict == "alive" and nb.status().targets[2].probes > 3
  end), told())
  local second = nb.status().targets[2]
  tap.check("what cannot be looked up is not judged", second.verdict == "unknown"
    and second.last_error:find("^internal: names cannot be looked up in this root directory"), told())
  return true
end)

tap.in_child("with a name that is absolute", 60, function()
  write(root .. "/etc/resolv.conf", servers)
  host.change_root(root)
  nb.configure(tap.config({}, { connect_timeout = "3s", backend_servers = {
    target("imap.prod.test"), target("imap.prod.test."), target("in-file."),
  } }))
  tap.check("the search list completes others only", become("alive dead alive"), told())
  return true
end)

tap.in_child("with a server that moves", 60, function()
  host.change_root(root)
  local there, listener = host.listen(1024, "127.0.0.2", 0)
  local config = tap.config({}, { backend_servers = { target("moved.test", { port = there }) } })
  nb.configure(config)
  tap.check("the server is alive where it was", become("alive"), told())
  host.close(listener)
  host.listen(1024, "127.0.0.3", there)
  write("/etc/hosts", (hosts:gsub("127.0.0.2", "127.0.0.3")))
  tap.check("and alive where it is", tap.eventually(function()
    local one = nb.get_backend_servers()[1]
    return one and one.ip == "127.0.0.3"
  end, 12), told())
  return true
end)

tap.in_child("with TLS", 60, function()
  local ca, untrusted = root .. "/ca.crt", root .. "/untrusted.crt"
  assert(os.execute(("cp '%s' '%s'"):format(os.getenv("SSL_CERT_FILE"), ca)))
  assert(os.execute(("cp '%s' '%s'"):format((os.getenv("SSL_CERT_FILE"):gsub("ca.crt", "selfsigned.crt")), untrusted)))
  local function server(settings)
    settings.tls = true
    return target("127.0.0.1", settings)
  end
  nb.configure(tap.config({}, { connect_interval = "100ms", tls_full_handshake_interval = 0, backend_servers = {
    server({ port = tonumber(arg[1]), tls_ca_file = ca }), server({ port = tonumber(arg[1]) }),
    server({ port = tonumber(arg[1]), tls_ca_file = untrusted }),
  } }))
  host.change_root(root .. "/empty")
  nb.start()
  tap.check("authorities are those of the configuration", become("alive alive dead"), told())
  local failed = nb.check_backend_connection("127.0.0.1", tonumber(arg[1]), false, true, { tls_ca_file = ca })
  tap.check("also for a check", failed == nil)
  return true
end)
