-- configure, start, stop, wait_ready, status, report_failure, is_health_check: the life of the
-- engine as a script sees it.

local engine = require("spec.support.engine")
local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")

describe("the engine", function()
  local nb, world

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  -- A connect probe need not reach a server's accept queue: peers count probes by their PROXY header.
  local function counted()
    return world:open({ proxy = "v2" })
  end

  local function proxied(server, overrides)
    local settings = { haproxy_v2 = true }
    for key, value in pairs(overrides or {}) do
      settings[key] = value
    end
    return engine.imap(server.port, settings)
  end

  describe("wait_ready", function()
    -- A server whose verdict is unknown for an hour.
    local function undecided()
      return engine.config({ engine.imap(world:closed_port()) },
        { connect_interval = "1h", fast_interval = "1h", failure_threshold = 100 })
    end

    it("ends where nothing probes, with the reason", function()
      nb.configure(undecided())
      assert.are.same({ nil, "timeout" }, { nb.wait_ready(0.05) })
      nb.stop()
      assert.are.same({ nil, "stopped" }, { nb.wait_ready() })
      assert.are.same({ nil, "stopped" }, { nb.wait_ready(60) })
      assert.is_true(nb.start())
      assert.are.same({ nil, "timeout" }, { nb.wait_ready(0.05) })
    end)

    it("succeeds after a stop if all verdicts are known", function()
      nb.configure(engine.config({ engine.imap(world:open().port) }))
      assert.is_true(nb.wait_ready(60))
      nb.stop()
      assert.is_true(nb.wait_ready())
    end)
  end)

  describe("verdicts", function()
    it("are unknown, then alive, then dead, then alive again", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }))
      assert.is_true(nb.wait_ready(60))
      assert.are.equal("alive", engine.target(nb, server.port).verdict)
      assert.are.same({ server.port }, engine.ports(nb))
      server:close()
      engine.await_verdict(nb, server.port, "dead")
      assert.are.same({}, engine.ports(nb))
      assert.matches("^connect: ", engine.target(nb, server.port).last_error)
      server:reopen()
      engine.await_verdict(nb, server.port, "alive")
      assert.are.same({ server.port }, engine.ports(nb))
    end)

    it("keep the configured order when servers come and go", function()
      local one, two, three = counted(), counted(), counted()
      nb.configure(engine.config({ proxied(one), proxied(two), proxied(three) }))
      assert.is_true(nb.wait_ready(60))
      two:close()
      engine.await_verdict(nb, two.port, "dead")
      assert.are.same({ one.port, three.port }, engine.ports(nb))
      two:reopen()
      engine.await_verdict(nb, two.port, "alive")
      assert.are.same({ one.port, two.port, three.port }, engine.ports(nb))
    end)

    it("take failure_threshold failures, a fast_interval apart", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }, {
        failure_threshold = 3, connect_interval = "200ms", fast_interval = "40ms",
      }))
      assert.is_true(nb.wait_ready(60))
      local failures = engine.target(nb, server.port).failures
      server:close()
      engine.await_verdict(nb, server.port, "dead")
      local target = engine.target(nb, server.port)
      assert.is_true(target.failures - failures >= 3, "dead after " .. target.failures - failures)
    end)

    it("take recovery_threshold good probes", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }, { recovery_threshold = 4 }))
      assert.is_true(nb.wait_ready(60))
      server:close()
      engine.await_verdict(nb, server.port, "dead")
      local function good_probes()
        local target = engine.target(nb, server.port)
        return target.probes - target.failures
      end
      local before = good_probes()
      server:reopen()
      engine.await_verdict(nb, server.port, "alive")
      assert.is_true(good_probes() - before >= 4, "alive after " .. good_probes() - before)
    end)

    it("are judged for each target at its own address, not by its position", function()
      local dead, alive = world:closed_port(), counted()
      nb.configure(engine.config({ engine.imap(dead), proxied(alive) }))
      assert.is_true(nb.wait_ready(60))
      assert.are.same({ alive.port }, engine.ports(nb))
      nb.configure(engine.config({ proxied(alive), engine.imap(dead) }, {
        connect_interval = "1h", fast_interval = "1h",
      }))
      assert.are.same({ alive.port }, engine.ports(nb))
      assert.are.equal("dead", engine.target(nb, dead).verdict)
    end)

    it("of unchanged targets outlive a new configuration, those of changed ones do not", function()
      local dead = world:closed_port()
      nb.configure(engine.config({ engine.imap(dead) }))
      assert.is_true(nb.wait_ready(60))
      assert.are.same({}, engine.ports(nb))
      local other = counted()
      nb.configure(engine.config({ proxied(other, { host = "127.0.0.1" }), engine.imap(dead) }, {
        connect_interval = "1h", fast_interval = "1h",
      }))
      assert.are.same({ other.port }, engine.ports(nb))
      nb.configure(engine.config({ engine.imap(dead, { haproxy_v2 = true }) }, {
        connect_interval = "1h", fast_interval = "1h",
      }))
      assert.are.same({ dead }, engine.ports(nb))
    end)
  end)

  describe("configure", function()
    it("refuses what is wrong, names the key, and leaves the old configuration running", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }))
      local generation = nb.status().generation
      local ok, err = pcall(function()
        nb.configure({ backend_servers = { engine.imap(143), engine.imap(70000) } })
      end)
      assert.is_false(ok)
      assert.are.equal("string", type(err))
      assert.matches("engine_spec%.lua:%d+: ", err)
      assert.matches("backend_servers[2].port", err, 1, true)
      assert.matches("70000", err, 1, true)
      assert.are.same({ server.port }, engine.ports(nb))
      assert.are.equal(generation, nb.status().generation)
      engine.await_probes(nb, server.port, 2)
    end)

    it("suggests the nearest known key", function()
      local ok, err = pcall(nb.configure, { conect_timeout = 1, backend_servers = {} })
      assert.is_false(ok)
      assert.matches("connect_timeout", err, 1, true)
    end)

    it("raises for anything but a table or a path", function()
      for _, wrong in ipairs({ 1, true, print }) do
        local ok, err = pcall(nb.configure, wrong)
        assert.is_false(ok)
        assert.matches("bad argument #1 to 'configure'", err, 1, true)
      end
    end)

    it("names a file that cannot be read", function()
      local ok, err = pcall(nb.configure, "/nowhere/nauthilus.yml")
      assert.is_false(ok)
      assert.matches("/nowhere/nauthilus.yml", err, 1, true)
    end)

    it("never repeats a secret", function()
      for _, password in ipairs({ "hunter2\r\n", 12345678, {} }) do
        local ok, err = pcall(nb.configure, {
          backend_servers = { engine.imap(143, { test_username = "u", test_password = password }) },
        })
        assert.is_false(ok)
        assert.is_nil(err:find("hunter2", 1, true))
        assert.is_nil(err:find("12345678", 1, true))
      end
    end)

    it("reads a YAML file in both of Nauthilus's layouts, and ignores its other sections", function()
      local server = counted()
      local layouts = {
        "backend_server_monitoring:\n  log: none\n  connect_interval: 50ms\n  backend_servers:\n" ..
          "    - { protocol: imap, host: 127.0.0.1, port: %d, haproxy_v2: true }\nserver:\n  address: 1.2.3.4\n",
        "server:\n  address: 1.2.3.4\nauth:\n  services:\n    backend_health_checks:\n      log: none\n" ..
          "      connect_interval: 50ms\n      targets:\n" ..
          "        - { protocol: imap, host: 127.0.0.1, port: %d, haproxy_v2: true }\n",
      }
      for index, layout in ipairs(layouts) do
        nb.configure(engine.config({}))
        local path = world:folder() .. "/layout" .. index .. ".yml"
        local file = assert(io.open(path, "w"))
        file:write((layout:format(server.port)))
        file:close()
        nb.configure(path)
        assert.is_true(nb.wait_ready(60))
        assert.are.same({ server.port }, engine.ports(nb))
      end
    end)

    it("takes effect at once, even while a probe of the old one hangs", function()
      local hole, server = world:hole(), counted()
      engine.promptly(2, function()
        nb.configure(engine.config({ engine.imap(hole.port, { connect_timeout = "30s" }) }))
        local started = engine.now()
        nb.configure(engine.config({ proxied(server) }))
        assert.is_true(nb.wait_ready(60))
        local took = engine.now() - started
        assert.are.same({ server.port }, engine.ports(nb))
        return took
      end)
    end)
  end)

  describe("start and stop", function()
    it("end the probing and take it up again", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }))
      assert.is_true(nb.wait_ready(60))
      nb.stop()
      assert.is_false(nb.status().probing)
      nb.stop()
      local server_seen = counted()
      nb.start()
      nb.start()
      assert.is_true(nb.status().probing)
      engine.await_probes(nb, server.port, 2)
      server_seen:close()
    end)

    it("run one engine, however often it is asked for", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }, { connect_interval = "1h" }))
      for _ = 1, 5 do
        nb.start()
        nb.get_backend_servers()
      end
      assert.is_true(nb.wait_ready(60))
      server:await("proxied", 1)
      assert.are.equal(1, server:stats().accepted)
    end)
  end)

  it("after a restart checks first what is older than its interval", function()
    local old, recent = world:open(), world:open()
    local state_file = world:folder() .. "/restart"
    local script = ([[
      local nb = require("nauthilus_backend")
      nb.configure({
        log = "none", state_file = %q, state_max_age = "24h", connect_interval = "1h", fast_interval = "100ms",
        backend_servers = {
          { protocol = "imap", host = "127.0.0.1", port = %d, connect_interval = "1s" },
          { protocol = "imap", host = "127.0.0.1", port = %d },
        },
      })
      local function probes()
        local targets = nb.status().targets
        return targets[1].probes, targets[2].probes, targets[1].verdict .. targets[2].verdict
      end
      %%s
    ]]):format(state_file, old.port, recent.port)
    local output, well = interpreter.run(script:format(([[
      assert(nb.wait_ready(30))
      repeat
        local file = io.open(%q, "rb")
        local _, verdicts = (file and file:read("*a") or ""):gsub("verdict=alive", "")
        if file then file:close() end
      until verdicts >= 2
      print((select(2, probes())))
    ]]):format(state_file)))
    assert.is_true(well, output)
    -- No verdict of the second comes for an hour.
    os.execute("sleep 1.2")
    local before = tonumber(output)
    output, well = interpreter.run(script:format([[
      local first, second, verdicts = probes()
      nb.start()
      repeat
        local now = probes()
      until now > first
      print(verdicts, second, (select(2, probes())))
    ]]))
    assert.is_true(well, output)
    assert.are.equal(("alivealive\t%d\t%d\n"):format(before, before), output)
  end)

  -- Servers that differ in nothing but the password share their verdict.
  it("keeps the verdict of a server that is configured with two passwords over a new configuration", function()
    local port = world:closed_port()
    local function configure(interval)
      local servers = {}
      for index, password in ipairs({ "one", "two" }) do
        servers[index] = engine.imap(port, { deep_check = true, test_username = "u", test_password = password })
      end
      nb.configure(engine.config(servers, { connect_interval = interval, fast_interval = interval }))
    end
    configure("50ms")
    engine.await_verdict(nb, port, "dead")
    engine.await_probes(nb, port, 20)
    local probes = engine.target(nb, port).probes
    configure("1h")
    assert.is_true(engine.target(nb, port).probes >= probes, "the record is still there")
    assert.are.equal("dead", engine.target(nb, port).verdict)
  end)

  it("checks a server that was removed and comes back at once, not after its interval", function()
    -- A probe takes hundreds of milliseconds here, so that one is nearly always in flight when the target is
    -- removed.
    local server = world:open({ script = "drip 50 * OK a slow server\\r\\n\nhang" })
    local target = engine.imap(server.port, { deep_check = true, deep_timeout = "300ms" })
    for round = 1, 6 do
      nb.configure({ log = "none", connect_interval = "1h", fast_interval = "50ms", backend_servers = { target } })
      assert.is_true(nb.wait_ready(30), "round " .. round)
      engine.await_probes(nb, server.port, 1)
      if round % 2 == 0 then
        nb.stop()
      end
      nb.configure({ log = "none", backend_servers = {} })
    end
  end)

  describe("wait_ready", function()
    it("and status say that nothing is configured", function()
      local printed, well = interpreter.run([[
        local nb = require("nauthilus_backend")
        local ready, why = nb.wait_ready(60)
        assert(ready == nil and why == "not configured", tostring(why))
        local status = nb.status()
        assert(status.error == "not configured" and status.configured == false and #status.targets == 0)
        assert(#nb.get_backend_servers() == 0)
        nb.configure({ log = "none", backend_servers = {} })
        assert(nb.wait_ready(60) and nb.status().error == nil)
        print("ok")
      ]])
      assert.equal("ok\n", printed)
      assert.is_true(well)
    end)

    it("returns true once every target has a verdict", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server), engine.imap(world:closed_port()) }))
      assert.is_true(nb.wait_ready(60))
      for _, target in ipairs(nb.status().targets) do
        assert.are_not.equal("unknown", target.verdict)
      end
    end)

    it("returns nil and \"timeout\" when the time is over", function()
      nb.configure(engine.config({ engine.imap(world:hole().port, { connect_timeout = "30s" }) }))
      engine.promptly(1, function()
        local started = engine.now()
        local ok, why = nb.wait_ready(0.1)
        local elapsed = engine.now() - started
        assert.is_nil(ok)
        assert.are.equal("timeout", why)
        assert.is_true(elapsed >= 0.09, "took " .. elapsed .. " s")
        return elapsed
      end)
    end)

    it("raises for a timeout that is none", function()
      for _, wrong in ipairs({ "soon", -1, {} }) do
        local ok, err = pcall(nb.wait_ready, wrong)
        assert.is_false(ok)
        assert.matches("bad argument #1 to 'wait_ready'", err, 1, true)
      end
    end)
  end)

  describe("status", function()
    it("tells of each target what there is to know", function()
      local good = world:open({ tls = "soon" })
      local dead = world:closed_port()
      nb.configure(engine.config({
        engine.imap(good.port, { tls = true, tls_ca_file = world:certificate("ca.crt") }),
        engine.imap(dead),
      }))
      assert.is_true(nb.wait_ready(60))
      local status = nb.status()
      assert.is_true(status.probing)
      assert.are.equal("number", type(status.generation))
      local alive, refused = status.targets[1], status.targets[2]
      assert.are.equal("imap://127.0.0.1:" .. good.port, alive.key)
      assert.are.equal("alive", alive.verdict)
      assert.is_true(alive.probes >= 1)
      assert.are.equal(0, alive.failures)
      assert.is_nil(alive.last_error)
      assert.is_true(alive.last_latency > 0 and alive.last_latency < 5)
      local day = 86400
      local left = alive.certificate_expiry - os.time()
      assert.is_true(left > 6 * day and left <= 7 * day + 60, left / day .. " days left")
      assert.is_true(math.abs(alive.since - os.time()) < 60)
      assert.are.equal("dead", refused.verdict)
      assert.is_true(refused.failures >= 1)
      assert.matches("^connect: ", refused.last_error)
      assert.is_nil(refused.certificate_expiry)
    end)

    it("says unknown until the first verdict", function()
      nb.configure(engine.config({ engine.imap(world:hole().port, { connect_timeout = "30s" }) }))
      local target = nb.status().targets[1]
      assert.are.equal("unknown", target.verdict)
      assert.are.equal(0, target.probes)
    end)

    it("changes its generation only when the list changes", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }))
      assert.is_true(nb.wait_ready(60))
      local generation = nb.status().generation
      engine.await_probes(nb, server.port, 3)
      assert.are.equal(generation, nb.status().generation)
      server:close()
      engine.await_verdict(nb, server.port, "dead")
      assert.are_not.equal(generation, nb.status().generation)
    end)

    it("shows no secret", function()
      nb.configure(engine.config({
        engine.imap(world:closed_port(), { deep_check = true, test_username = "health", test_password = "hunter2" }),
      }))
      assert.is_true(nb.wait_ready(60))
      assert.is_nil(engine.all_text(nb.status()):find("hunter2", 1, true))
    end)
  end)

  describe("report_failure", function()
    it("has the target probed now, so that a dead one leaves the list", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }, { connect_interval = "1h" }))
      assert.is_true(nb.wait_ready(60))
      engine.promptly(0.5, function()
        server:close()
        local started = engine.now()
        assert.is_true(nb.report_failure("127.0.0.1", server.port, "connection reset"))
        engine.await_verdict(nb, server.port, "dead")
        local took = engine.now() - started
        server:reopen()
        engine.await_verdict(nb, server.port, "alive")
        return took
      end)
    end)

    it("judges nothing by itself", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }, { connect_interval = "1h" }))
      assert.is_true(nb.wait_ready(60))
      assert.is_true(nb.report_failure("127.0.0.1", server.port))
      server:await("proxied", 2)
      assert.are.same({ server.port }, engine.ports(nb))
      assert.are.equal(0, engine.target(nb, server.port).failures)
    end)

    it("has a target probed at most once per 100 ms", function()
      local server = counted()
      nb.configure(engine.config({ proxied(server) }, { connect_interval = "1h" }))
      assert.is_true(nb.wait_ready(60))
      local started, probes = engine.now()
      engine.eventually("a probe for a report", function()
        nb.report_failure("127.0.0.1", server.port)
        probes = engine.target(nb, server.port).probes
        return engine.now() - started >= 0.35 and probes >= 2
      end)
      -- The time is read after the number of probes, which may have grown meanwhile.
      local elapsed = engine.now() - started
      assert.is_true(probes <= 2 + math.floor(elapsed / 0.1), probes .. " probes in " .. elapsed .. " s")
    end)

    it("ignores an address that it does not know", function()
      nb.configure(engine.config({ engine.imap(world:closed_port()) }))
      assert.is_false(nb.report_failure("127.0.0.1", 1))
      assert.is_false(nb.report_failure("10.1.2.3", 143))
    end)

    it("raises for arguments that are wrong", function()
      for _, wrong in ipairs({ { nil, 143 }, { "127.0.0.1", 0 }, { "127.0.0.1", "x" }, { "127.0.0.1", 143, {} } }) do
        local ok, err = pcall(function()
          nb.report_failure(wrong[1], wrong[2], wrong[3])
        end)
        assert.is_false(ok)
        assert.matches("engine_spec%.lua:%d+: bad argument #%d to 'report_failure'", err)
      end
    end)
  end)

  describe("is_health_check", function()
    it("knows the users of the health checks, and only them", function()
      nb.configure(engine.config({
        engine.imap(world:closed_port(), {
          deep_check = true, test_username = "health@example.org", test_password = "x",
        }),
      }))
      assert.is_true(nb.is_health_check("health@example.org"))
      assert.is_false(nb.is_health_check("HEALTH@example.org"))
      assert.is_false(nb.is_health_check("user@example.org"))
      assert.is_false(nb.is_health_check(""))
      nb.configure(engine.config({}))
      assert.is_false(nb.is_health_check("health@example.org"))
    end)

    it("raises for anything but a string", function()
      local ok, err = pcall(nb.is_health_check, {})
      assert.is_false(ok)
      assert.matches("bad argument #1 to 'is_health_check'", err, 1, true)
    end)
  end)

  it("logs one line per change of state", function()
    local path = world:folder() .. "/changes.log"
    local server = counted()
    nb.configure(engine.config({ proxied(server) }, { log = path }))
    assert.is_true(nb.wait_ready(60))
    server:close()
    engine.await_verdict(nb, server.port, "dead")
    engine.await_probes(nb, server.port, 3)
    server:reopen()
    engine.await_verdict(nb, server.port, "alive")
    local lines
    engine.eventually("two lines of change", function()
      lines = {}
      for line in io.lines(path) do
        if line:find("target_down", 1, true) or line:find("target_up", 1, true) then
          lines[#lines + 1] = line
        end
      end
      local last = lines[#lines]
      return last and last:find("target_up", 1, true)
    end)
    local down
    for _, line in ipairs(lines) do
      if line:find("event=target_down", 1, true) then
        assert.is_nil(down, "logged twice")
        down = line
      end
    end
    assert.matches("target=imap://127%.0%.0%.1:" .. server.port, down)
    assert.matches('reason="connect: [^"]+"', down)
    assert.matches("after=1", down, 1, true)
  end)
end)
