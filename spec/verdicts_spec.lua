-- What can be wrong with a server, each with its own one-line reason, within its timeout; and
-- the same reasons from the engine.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")

describe("a probe", function()
  local nb, world, ca

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    ca = world:certificate("ca.crt")
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  -- What is wrong, how to make it so, and the reason that is to be given. Each stage has a timeout
  -- of its own: 700 ms, or 10 s where another reason than the timeout has to come first.
  local cases = {
    {
      "a certificate for another name",
      function() return { port = world:open({ tls = "other" }).port, tls = true } end,
      "^tls: .*127%.0%.0%.1",
    },
    {
      "an expired certificate",
      function() return { port = world:open({ tls = "expired" }).port, tls = true } end,
      "^tls: .*expired",
    },
    {
      "a certificate that is not valid yet",
      function() return { port = world:open({ tls = "early" }).port, tls = true } end,
      "^tls: .*not yet valid",
    },
    {
      "a certificate signed by nobody we trust",
      function() return { port = world:open({ tls = "selfsigned" }).port, tls = true } end,
      "^tls: .*self.signed",
    },
    {
      "a plain port spoken to with TLS",
      function() return { port = world:open({ script = "send * OK ready\\r\\n" }).port, tls = true } end,
      "^tls: .*not.*TLS",
    },
    {
      "a PROXY listener spoken to without the header",
      function() return { port = world:open({ proxy = "v2", tls = "good" }).port, tls = true } end,
      "^tls: .*haproxy_v2",
    },
    {
      "a server that accepts and stays silent under TLS",
      function() return { port = world:open().port, tls = true } end,
      "^tls: timed out after 700ms",
    },
    {
      "a refused port",
      function() return { port = world:closed_port() } end,
      "^connect: .*refused",
    },
    {
      "a black hole",
      function() return { port = world:hole().port } end,
      "^connect: timed out after 700ms",
    },
    {
      "a name that does not exist",
      function() return { host = "no-such-server.invalid", port = 143 } end,
      "^resolve: %S",
    },
  }

  local function target(case)
    local settings = case[2]()
    settings.protocol = "imap"
    settings.host = settings.host or "127.0.0.1"
    settings.tls_ca_file = settings.tls and ca
    settings.connect_timeout = "700ms"
    settings.tls_timeout = case[3]:find("timed out", 1, true) and "700ms" or "10s"
    return settings
  end

  local reasons = {}

  for _, case in ipairs(cases) do
    it("names " .. case[1], function()
      nb.configure(engine.config({}))
      local settings = target(case)
      local reason
      engine.promptly(1.4 + 0.6, function()
        reason = nb.check_backend_connection(settings)
      end)
      assert.are.equal("string", type(reason))
      assert.matches(case[3], reason)
      assert.is_nil(reason:find("%c"), "more than one line: " .. reason)
      assert.is_true(#reason <= 300, "a long line: " .. reason)
      reasons[case[1]] = reason
    end)
  end

  it("has a reason of its own for each", function()
    local by_reason = {}
    for name, reason in pairs(reasons) do
      -- The ports differ, the texts have to.
      local text = reason:gsub("%d+", "#")
      assert.is_nil(by_reason[text], name .. " and " .. tostring(by_reason[text]) .. ": " .. reason)
      by_reason[text] = name
    end
    assert.is_not_nil(next(reasons))
  end)

  it("takes the verdict and the reason to the engine", function()
    local servers = { engine.imap(world:open().port) }
    for index, case in ipairs(cases) do
      servers[index + 1] = target(case)
    end
    nb.configure(engine.config(servers))
    assert.is_true(nb.wait_ready(30))
    assert.are.same({ servers[1].port }, engine.ports(nb))
    local targets = nb.status().targets
    assert.are.equal("alive", targets[1].verdict)
    for index, case in ipairs(cases) do
      assert.are.equal("dead", targets[index + 1].verdict, case[1])
      assert.matches(case[3], targets[index + 1].last_error)
    end
  end)

  -- What an IMAP server says after its greeting.
  local IMAP = "\n" .. [[
expect ^a1 CAPABILITY
send * CAPABILITY IMAP4rev1\r\na1 OK done\r\n
expect LOGOUT
close]]

  it("probes a slow target also where more prompt ones wait than there are slots for", function()
    -- Their greetings take 0.7 s and 0.1 s.
    local slow = world:open({ script = "drip 70 * OK it\\r\\n" .. IMAP })
    local prompt = world:open({ script = "drip 10 * OK it\\r\\n" .. IMAP })
    local servers = { engine.imap(slow.port, { deep_check = true, deep_timeout = "20s" }) }
    for index = 1, 20 do
      -- Equal targets would share their probes.
      servers[index + 1] = engine.imap(prompt.port, { deep_check = true, source_address = "127.1.0." .. index })
    end
    for _, limit in ipairs({ 1, 4 }) do
      nb.configure(engine.config({}))
      nb.configure(engine.config(servers, { max_concurrent_probes = limit }))
      engine.await_verdict(nb, slow.port, "alive", 60)
    end
  end)

  it("needs recovery_threshold good deep probes also after a reload without a timer for them", function()
    local server = world:open({ script = "send * BYE no room\\r\\n\nclose" })
    local function configure(deep_interval)
      nb.configure(engine.config({ engine.imap(server.port, { deep_check = true }) }, {
        connect_interval = "50ms", deep_interval = deep_interval, recovery_threshold = 30, connect_timeout = "5s",
      }))
    end
    configure("60ms")
    engine.await_verdict(nb, server.port, "dead")
    -- As many good connect probes as the threshold asks for.
    engine.await_probes(nb, server.port, 90)
    configure("50ms")
    local before = engine.target(nb, server.port).probes
    server:play("send * OK it\\r\\n" .. IMAP)
    engine.await_verdict(nb, server.port, "alive")
    local took = engine.target(nb, server.port).probes - before
    assert.is_true(took >= 30, "alive after " .. took .. " probes")
  end)

  it("makes a target that counts as dead at first alive soon", function()
    local server = world:open()
    nb.configure(engine.config({ engine.imap(server.port) }, {
      connect_interval = "1h", recovery_threshold = 3, initial_state = "dead",
    }))
    engine.await_verdict(nb, server.port, "alive")
    assert.are.equal(3, engine.target(nb, server.port).probes)
  end)

  it("lets no slow target delay another's verdict", function()
    local port = world:open().port
    local servers = { engine.imap(port) }
    local silent = world:hole().port
    for index, protocol in ipairs({ "imap", "pop3", "lmtp", "smtp", "sieve", "http" }) do
      servers[index + 1] = engine.imap(silent, { protocol = protocol, connect_timeout = "20s" })
    end
    nb.configure(engine.config(servers))
    engine.await_verdict(nb, port, "alive")
    assert.are.equal("unknown", nb.status().targets[2].verdict)
  end)
end)
