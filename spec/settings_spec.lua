-- Settings of each server in the place of the service's, from a Lua table and from YAML: where
-- probes come from, how often, what makes a verdict, and the list in panic.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")

describe("a server's own settings", function()
  local nb, world

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  -- Applies the same configuration as a table and as YAML, one after the other.
  local function in_both(service, servers, body)
    local config = { log = "none" }
    local lines = { "backend_server_monitoring:", "  log: none" }
    for key, value in pairs(service) do
      config[key] = value
      lines[#lines + 1] = ("  %s: %s"):format(key, value)
    end
    config.backend_servers = servers
    lines[#lines + 1] = "  backend_servers:"
    for _, server in ipairs(servers) do
      local first = "    - "
      for key, value in pairs(server) do
        lines[#lines + 1] = ("%s%s: %s"):format(first, key, tostring(value))
        first = "      "
      end
    end
    local path = os.tmpname()
    local file = assert(io.open(path, "w"))
    file:write(table.concat(lines, "\n"), "\n")
    file:close()
    for _, given in ipairs({ config, path }) do
      nb.stop()
      nb.configure({ log = "none", backend_servers = {} })
      local ok, problem = pcall(nb.configure, given)
      body(ok, problem)
    end
    os.remove(path)
  end

  local function imap(port, settings)
    local server = { protocol = "imap", host = "127.0.0.1", port = port }
    for key, value in pairs(settings or {}) do
      server[key] = value
    end
    return server
  end

  it("intervals and thresholds count for it alone", function()
    local often, seldom = world:open({ proxy = "v2" }), world:open({ proxy = "v2" })
    in_both({ connect_interval = "1h", fast_interval = "20ms" }, {
      imap(often.port, { haproxy_v2 = true, connect_interval = "50ms" }),
      imap(seldom.port, { haproxy_v2 = true }),
    }, function(ok, problem)
      assert.is_true(ok, problem)
      assert.is_true(nb.wait_ready(60))
      engine.await_probes(nb, often.port, 6)
      assert.is_true(engine.target(nb, seldom.port).probes <= 2)
    end)

    local patient, strict = world:open(), world:open()
    in_both({ connect_interval = "50ms", fast_interval = "50ms" }, {
      imap(patient.port, { failure_threshold = 100 }),
      imap(strict.port),
    }, function(ok, problem)
      assert.is_true(ok, problem)
      assert.is_true(nb.wait_ready(60))
      patient:close()
      strict:close()
      engine.await_verdict(nb, strict.port, "dead")
      assert.are.equal("alive", engine.target(nb, patient.port).verdict)
      patient:reopen()
      strict:reopen()
      engine.await_verdict(nb, strict.port, "alive")
    end)
  end)

  it("probes come from its source_address", function()
    local server = world:open()
    in_both({ connect_interval = "50ms" }, { imap(server.port, { source_address = "127.0.0.1" }) },
      function(ok, problem)
        assert.is_true(ok, problem)
        assert.is_true(nb.wait_ready(60))
        assert.are.equal("alive", engine.target(nb, server.port).verdict)
      end)
    assert.is_nil(nb.check_backend_connection({ host = "127.0.0.1", port = server.port, source_address = "127.0.0.7" }))
    -- Nothing listens on that address, so a probe from this machine's other address fails.
    in_both({}, { imap(server.port, { source_address = "192.0.2.1" }) }, function(ok, problem)
      assert.is_false(ok)
      local expected = "backend_servers%[1%]%.source_address: address of this machine expected, got 192%.0%.2%.1"
      assert.matches(expected, problem)
    end)
    in_both({}, { imap(server.port, { source_address = "::1" }) }, function(ok, problem)
      assert.is_false(ok)
      assert.matches("source_address: IPv4 expected as for the host, got ::1", problem)
    end)
  end)

  it("limits are told alike for both", function()
    for key, cases in pairs({
      connect_interval = { good = { "10ms", "24h" }, bad = { "9ms", "25h" } },
      deep_interval = { good = { "10ms", "24h" }, bad = { "9ms", "25h" } },
      fast_interval = { good = { "10ms", "24h" }, bad = { "9ms", "25h" } },
      failure_threshold = { good = { 1, 100 }, bad = { 0, 101 } },
      recovery_threshold = { good = { 1, 100 }, bad = { 0, 101 } },
    }) do
      for _, value in ipairs(cases.good) do
        in_both({}, { imap(1, { [key] = value }) }, function(ok, problem)
          assert.is_true(ok, problem)
        end)
      end
      for _, value in ipairs(cases.bad) do
        in_both({}, { imap(1, { [key] = value }) }, function(ok, problem)
          assert.is_false(ok)
          assert.matches("backend_servers%[1%]%." .. key .. ": .* expected, got \"?" .. value, problem)
        end)
      end
    end
    for _, value in ipairs({ "0%", "100%", 0, 100 }) do
      in_both({ panic_threshold = value }, {}, function(ok, problem)
        -- An empty list is written as null in YAML.
        assert.is_true(ok or problem:find("backend_servers") ~= nil, problem)
      end)
    end
    for _, value in ipairs({ "101%", 101, "half" }) do
      in_both({ panic_threshold = value }, { imap(1) }, function(ok, problem)
        assert.is_false(ok)
        assert.matches("panic_threshold: percentage 0%%%.%.100%% expected, got ", problem)
      end)
    end
  end)

  it("the list shows all of a protocol where too few are alive", function()
    local one, two, other = world:open(), world:open(), world:open()
    local log = os.tmpname()
    nb.configure({
      log = log, connect_interval = "50ms", fast_interval = "50ms", panic_threshold = "50%",
      node_down_after = 0, node_up_after = 0,
      backend_servers = {
        imap(one.port), imap(two.port), { protocol = "pop3", host = "127.0.0.1", port = other.port },
      },
    })
    assert.is_true(nb.wait_ready(60))
    assert.are.same({}, nb.status().panic)
    one:close()
    engine.await_verdict(nb, one.port, "dead")
    -- Half of the targets are alive: no panic.
    assert.are.same({ two.port, other.port }, engine.ports(nb))
    two:close()
    engine.await_verdict(nb, two.port, "dead")
    assert.are.same({ one.port, two.port, other.port }, engine.ports(nb))
    assert.are.same({ "imap" }, nb.status().panic)
    local routed = nb.route("alice", { protocol = "imap" })
    assert.is_truthy(routed and (routed.port == one.port or routed.port == two.port))
    other:close()
    engine.await_verdict(nb, other.port, "dead")
    assert.are.same({ "imap", "pop3" }, nb.status().panic)
    -- A few times a second the prober looks whether there is panic to log.
    local function await_line(line)
      engine.eventually(line, function()
        local file = assert(io.open(log))
        local text = file:read("*a")
        file:close()
        return text:find(line, 1, true)
      end)
    end
    await_line("panic_begins protocol=imap alive=0 of=2")
    await_line("panic_begins protocol=pop3 alive=0 of=1")
    other:reopen()
    two:reopen()
    engine.await_verdict(nb, two.port, "alive")
    engine.await_verdict(nb, other.port, "alive")
    assert.are.same({ two.port, other.port }, engine.ports(nb))
    assert.are.same({}, nb.status().panic)
    await_line("panic_ends protocol=imap")
    await_line("panic_ends protocol=pop3")
    nb.stop()
    os.remove(log)
  end)
end)
