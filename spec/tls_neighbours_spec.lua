-- A server with a bad certificate, and other servers that the same process probes over TLS.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")

describe("a server whose certificate has a wrong signature", function()
  local nb, world, bad

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    bad = world:open({ tls = "resigned" })
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  it("is dead, and no other server fails for it", function()
    -- It takes so long to answer that the bad one is probed meanwhile.
    local slow = world:open({
      tls = "good",
      script = table.concat({
        "drip 20 * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] ready\\r\\n",
        "expect AUTHENTICATE",
        "drip 20 a1 OK in\\r\\n",
        "expect LOGOUT",
        "close",
      }, "\n"),
    })
    local patient = { connect_timeout = "30s", tls_timeout = "30s", deep_timeout = "30s" }
    local function target(server, authority, more)
      local all = { tls = true, tls_ca_file = world:certificate(authority) }
      return engine.imap(server.port, engine.changed(engine.changed(all, patient), more))
    end
    nb.configure(engine.config({
      target(slow, "ca.crt", { deep_check = true, test_username = "health", test_password = "check" }),
      target(bad, "twin.crt"),
    }))
    engine.await_verdict(nb, bad.port, "dead")
    engine.await_probes(nb, slow.port, 3)
    engine.await_probes(nb, bad.port, 20)
    engine.await_probes(nb, slow.port, 3)
    local healthy, other = engine.target(nb, slow.port), engine.target(nb, bad.port)
    assert.are.equal("tls: certificate not trusted: certificate signature failure", other.last_error)
    assert.are.equal(0, healthy.failures, healthy.last_error)
    assert.are.equal("alive", healthy.verdict)
  end)
end)
