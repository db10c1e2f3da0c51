-- Against a real Dovecot: a plain listener, one with TLS, one that expects the PROXY protocol,
-- one with both.

local engine = require("spec.support.engine")
local Dovecot = require("spec.support.dovecot")

describe("a real Dovecot", function()
  local nb, dovecot

  -- Twice this is all the time a change may take.
  local FAST = 0.5

  lazy_setup(function()
    nb = require("nauthilus_backend")
    dovecot = Dovecot.new()
    dovecot:start()
  end)

  lazy_teardown(function()
    nb.stop()
    dovecot:quit()
  end)

  local function targets()
    return {
      engine.imap(dovecot.imap),
      engine.imap(dovecot.imaps, { tls = true, tls_ca_file = dovecot.ca }),
      engine.imap(dovecot.imap_proxy, { haproxy_v2 = true }),
      engine.imap(dovecot.imaps_proxy, { haproxy_v2 = true, tls = true, tls_ca_file = dovecot.ca }),
    }
  end

  local function configure(servers)
    nb.configure(engine.config(servers, {
      connect_interval = FAST, fast_interval = FAST, connect_timeout = "2s", tls_timeout = "2s",
    }))
  end

  local function all_are(verdict)
    return function()
      for _, target in ipairs(nb.status().targets) do
        if target.verdict ~= verdict then
          return false
        end
      end
      return true
    end
  end

  it("is alive on all its listeners, dead when stopped, and alive when started again", function()
    configure(targets())
    assert.is_true(nb.wait_ready(5))
    for _, target in ipairs(nb.status().targets) do
      assert.are.equal("alive", target.verdict, target.key .. ": " .. tostring(target.last_error))
    end
    assert.are.equal(4, #nb.get_backend_servers())

    dovecot:stop()
    local stopped = engine.now()
    engine.eventually("all are dead", all_are("dead"), 2 * FAST + 1)
    assert.is_true(engine.now() - stopped <= 2 * FAST, "dead after " .. engine.now() - stopped .. " s")
    assert.are.same({}, nb.get_backend_servers())

    dovecot:start()
    local started = engine.now()
    engine.eventually("all are alive", all_are("alive"), 2 * FAST + 1)
    assert.is_true(engine.now() - started <= 2 * FAST, "alive after " .. engine.now() - started .. " s")
    assert.are.equal(4, #nb.get_backend_servers())
  end)

  it("says what is wrong when the PROXY header is missing", function()
    local options = { tls_ca_file = dovecot.ca }
    local reason = nb.check_backend_connection("127.0.0.1", dovecot.imaps_proxy, false, true, options)
    assert.matches("^tls: .*haproxy_v2", reason)
  end)

  it("says what is wrong when a plain port is spoken to with TLS", function()
    local reason = nb.check_backend_connection("127.0.0.1", dovecot.imap, false, true, { tls_ca_file = dovecot.ca })
    assert.matches("^tls: ", reason)
  end)

  it("is dead while it is stopped in its tracks, where TLS is spoken", function()
    configure({ engine.imap(dovecot.imaps, { tls = true, tls_ca_file = dovecot.ca, tls_timeout = "300ms" }) })
    assert.is_true(nb.wait_ready(5))
    dovecot:freeze()
    finally(function() dovecot:thaw() end)
    engine.await_verdict(nb, dovecot.imaps, "dead", 5)
    assert.matches("^tls: timed out", engine.target(nb, dovecot.imaps).last_error)
    dovecot:thaw()
    engine.await_verdict(nb, dovecot.imaps, "alive", 5)
  end)
end)
