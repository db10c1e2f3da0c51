-- In a host that speaks another language, a name server that fails for the moment kills nobody.

local tap = require("tap")
local nb = require("nauthilus_backend")

local port = host.listen(1024)
local fail = arg[4] .. "/names-fail"
os.remove(fail)
local set = io.popen and os.getenv("NAMES_FAIL")
tap.check("the host says which file makes name servers fail", set == fail, tostring(set))

nb.configure(tap.config({}, { backend_servers = { { protocol = "imap", host = "localhost", port = port } } }))
tap.check("a server given by its name is alive", nb.wait_ready(60) and nb.status().targets[1].verdict == "alive",
  nb.status().targets[1].last_error)

assert(io.open(fail, "w")):close()
-- A new engine knows only the addresses that good probes have used.
nb.stop()
nb.start()
local before = nb.status().targets[1].probes
tap.check("it is probed at its known address", tap.eventually(function()
  return nb.status().targets[1].probes > before + 3
end), nb.status().targets[1].last_error)
tap.check("and stays alive", nb.status().targets[1].verdict == "alive", nb.status().targets[1].last_error)

local reason = nb.check_backend_connection("LocalHost", port, false, false)
tap.check("a reason is told in English", reason == "resolve: temporary failure in name resolution", reason)
os.remove(fail)
