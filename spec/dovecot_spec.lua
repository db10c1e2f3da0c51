-- Against a real Dovecot: a plain listener, one with TLS, one that expects the PROXY protocol,
-- one with both.

local engine = require("spec.support.engine")
local Dovecot = require("spec.support.dovecot")

describe("a real Dovecot", function()
  local nb, dovecot

  -- Seconds. A change of verdict may take twice this.
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
      connect_interval = FAST, fast_interval = FAST, connect_timeout = "10s", tls_timeout = "10s",
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
    assert.is_true(nb.wait_ready(30))
    for _, target in ipairs(nb.status().targets) do
      assert.are.equal("alive", target.verdict, target.key .. ": " .. tostring(target.last_error))
    end
    assert.are.equal(4, #nb.get_backend_servers())

    local function within_twice(change, verdict, listed)
      engine.promptly(2 * FAST, function()
        -- Where another attempt is needed, it begins from the other verdict again.
        if all_are(verdict)() then
          dovecot[change == "stop" and "start" or "stop"](dovecot)
          engine.eventually("all are otherwise", all_are(verdict == "dead" and "alive" or "dead"), 30)
        end
        dovecot[change](dovecot)
        local changed = engine.now()
        engine.eventually("all are " .. verdict, all_are(verdict), 30)
        local took = engine.now() - changed
        assert.are.equal(listed, #nb.get_backend_servers())
        return took
      end)
    end
    within_twice("stop", "dead", 0)
    within_twice("start", "alive", 4)
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
    configure({ engine.imap(dovecot.imaps, { tls = true, tls_ca_file = dovecot.ca, tls_timeout = "1s" }) })
    engine.await_verdict(nb, dovecot.imaps, "alive", 30)
    dovecot:freeze()
    finally(function() dovecot:thaw() end)
    engine.await_verdict(nb, dovecot.imaps, "dead", 30)
    assert.matches("^tls: timed out", engine.target(nb, dovecot.imaps).last_error)
    dovecot:thaw()
    engine.await_verdict(nb, dovecot.imaps, "alive", 30)
  end)
end)
