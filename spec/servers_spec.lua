-- get_backend_servers(): what a script sees, and what it cannot change.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")

describe("get_backend_servers", function()
  local nb, world, one, two

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    one, two = world:open(), world:open()
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  local function configure(overrides)
    nb.configure(engine.config({
      engine.imap(one.port, {
        deep_check = true,
        test_username = "health@example.org",
        test_password = "hunter2",
        allow_plaintext_auth = true,
      }),
      engine.imap(two.port, { tls = true, tls_skip_verify = true, haproxy_v2 = true }),
      { protocol = "http", host = "localhost", port = one.port, request_uri = "/up?deep=1" },
    }, overrides))
  end

  before_each(function()
    configure({ connect_interval = "1h", fast_interval = "1h" })
  end)

  it("counts every target as alive before its first probe, in configured order", function()
    assert.are.same({ one.port, two.port, one.port }, engine.ports(nb))
  end)

  it("offers none with initial_state: dead", function()
    configure({ connect_interval = "1h", fast_interval = "1h", initial_state = "dead", backend_servers = {
      engine.imap(world:hole().port),
    } })
    assert.are.same({}, nb.get_backend_servers())
  end)

  it("shows the documented fields, by both names of the address", function()
    local servers = nb.get_backend_servers()
    local first, second, third = servers[1], servers[2], servers[3]
    assert.are.equal("127.0.0.1", first.ip)
    assert.are.equal("127.0.0.1", first.host)
    assert.are.equal(one.port, first.port)
    assert.are.equal("imap", first.protocol)
    assert.is_false(first.haproxy_v2)
    assert.is_false(first.tls)
    assert.are.equal("plain", first.tls_mode)
    assert.is_false(first.tls_skip_verify)
    assert.is_true(first.deep_check)

    assert.is_true(second.haproxy_v2)
    assert.is_true(second.tls)
    assert.are.equal("implicit", second.tls_mode)
    assert.is_true(second.tls_skip_verify)
    assert.is_false(second.deep_check)

    assert.are.equal("localhost", third.host)
    assert.are.equal("/up?deep=1", third.request_uri)
  end)

  it("says that TLS starts with the first byte, not that it may start later", function()
    nb.configure(engine.config({ engine.imap(one.port, { tls_mode = "starttls" }) }, { connect_interval = "1h" }))
    local server = nb.get_backend_servers()[1]
    assert.is_false(server.tls)
    assert.are.equal("starttls", server.tls_mode)
  end)

  it("gives ports as integers", function()
    assert.are.equal(tostring(one.port), tostring(nb.get_backend_servers()[1].port))
  end)

  it("gives nil for a field that does not exist", function()
    local server = nb.get_backend_servers()[1]
    assert.is_nil(server.colour)
    assert.is_nil(server[1])
  end)

  it("never shows the test login", function()
    local server = nb.get_backend_servers()[1]
    assert.is_nil(server.test_username)
    assert.is_nil(server.test_password)
    local text = engine.all_text(server) .. engine.all_text(nb.get_backend_servers()) .. tostring(server)
    assert.is_nil(text:find("hunter2", 1, true))
    assert.is_nil(text:find("health@example.org", 1, true))
  end)

  it("refuses writing a field, at the caller's line, and changes nothing", function()
    local server = nb.get_backend_servers()[1]
    for _, field in ipairs({ "ip", "port", "brand_new" }) do
      local ok, err = pcall(function()
        server[field] = "10.9.9.9"
      end)
      assert.is_false(ok)
      assert.are.equal("string", type(err))
      assert.matches("servers_spec%.lua:%d+: ", err)
      assert.matches(field, err, 1, true)
    end
    assert.are.equal("127.0.0.1", server.ip)
    assert.is_nil(server.brand_new)
  end)

  it("keeps what one caller does to an object from every other caller", function()
    local server = nb.get_backend_servers()[1]
    pcall(rawset, server, "ip", "10.9.9.9")
    pcall(rawset, server, "port", 1)
    pcall(setmetatable, server, nil)
    local meta = getmetatable(server)
    if type(meta) == "table" then
      pcall(rawset, meta, "__index", function()
        return "10.9.9.9"
      end)
    end
    local again = nb.get_backend_servers()[1]
    assert.are.equal("127.0.0.1", again.ip)
    assert.are.equal(one.port, again.port)
  end)

  it("gives each caller an array of its own", function()
    local mine = nb.get_backend_servers()
    table.remove(mine, 1)
    table.sort(mine, function(a, b)
      return a.port < b.port
    end)
    table.insert(mine, "something else")
    mine.extra = true
    local other = nb.get_backend_servers()
    assert.are.equal(3, #other)
    assert.is_nil(other.extra)
    assert.are.same({ one.port, two.port, one.port }, engine.ports(nb))
  end)

  -- Long enough for LuaJIT to compile each.
  it("gives lists of any length, however often it changes", function()
    local function uri(index, number)
      return string.format("/%d/%d", number, index)
    end
    local kept = {}
    local lengths = { 3, 1, 10, 0, 9, 2, 5, 300, 256, 4, 6, 7, 10, 11, 8, 12, 3, 1, 0, 10, 10, 10 }
    -- One configuration more, and so many that the first lists are no longer remembered.
    for length = 13, 40 do
      lengths[#lengths + 1] = length
    end
    for number, length in ipairs(lengths) do
      local targets = {}
      for index = 1, length do
        targets[index] = {
          protocol = "http", host = "127.0.0.1", port = one.port, request_uri = uri(index, number),
        }
      end
      nb.configure(engine.config(targets, { connect_interval = "1h", fast_interval = "1h" }))
      local wrong = 0
      for _ = 1, 200 do
        local servers = nb.get_backend_servers()
        wrong = wrong + (#servers == length and 0 or 1)
        if length > 0 then
          wrong = wrong + (servers[1].request_uri == uri(1, number) and 0 or 1)
        end
        for index = 1, length do
          wrong = wrong + (servers[index].request_uri == uri(index, number) and 0 or 1)
          servers[index] = index
        end
        servers[length + 1], servers.extra = true, true
      end
      assert.are.equal(0, wrong)
      kept[number] = nb.get_backend_servers()
    end
    for number, servers in ipairs(kept) do
      assert.are.equal(lengths[number], #servers)
      for index, server in ipairs(servers) do
        assert.are.equal(uri(index, number), server.request_uri)
      end
    end
  end)

  it("gives whole lists where finalisers ask for them and configure others", function()
    local number = 0
    local function configure_another()
      number = number + 1
      local mine, targets = number, {}
      for index = 1, 1 + mine % 5 do
        targets[index] = {
          protocol = "http", host = "127.0.0.1", port = one.port, request_uri = "/" .. mine,
        }
      end
      nb.configure(engine.config(targets, { connect_interval = "1h", fast_interval = "1h" }))
    end
    local wrong = 0
    -- Returns the number of the configuration that the list is of.
    local function configuration_of_list()
      local servers = nb.get_backend_servers()
      local uri = servers[1].request_uri
      local found = tonumber(uri:sub(2))
      wrong = wrong + (#servers == 1 + found % 5 and 0 or 1)
      for index = 1, #servers do
        wrong = wrong + (servers[index].request_uri == uri and 0 or 1)
      end
      return found
    end
    local runs = 0
    local function finaliser()
      runs = runs + 1
      configure_another()
      configuration_of_list()
    end
    local proxy = rawget(_G, "newproxy")
    local make = proxy and function()
      getmetatable(proxy(true)).__gc = finaliser
    end or function()
      setmetatable({}, { __gc = finaliser })
    end
    configure_another()
    for round = 1, 300 do
      make()
      if round % 3 == 0 then
        configure_another()
      end
      for _ = 1, 20 do
        configuration_of_list()
      end
    end
    while runs < 300 do
      collectgarbage()
    end
    configure_another()
    assert.are.equal(number, configuration_of_list())
    assert.are.equal(0, wrong)
  end)

  it("lets pairs() list the fields where __pairs is honoured", function()
    local server = nb.get_backend_servers()[1]
    local honoured = false
    for _ in pairs(setmetatable({}, {
      __pairs = function()
        return next, { true }
      end,
    })) do
      honoured = true
    end
    if honoured then
      local seen = {}
      for key, value in pairs(server) do
        seen[key] = value
      end
      for _, field in ipairs({ "ip", "port", "protocol", "haproxy_v2", "tls", "host", "tls_mode" }) do
        assert.are.equal(server[field], seen[field])
      end
      assert.is_nil(seen.test_password)
      -- The table that all callers share must not reach a script.
      local _, state = pairs(server)
      assert.is_nil(state)
    end
  end)

  it("keeps a server object as it was when its target is gone", function()
    local server = nb.get_backend_servers()[2]
    nb.configure(engine.config({ engine.imap(one.port) }))
    collectgarbage()
    assert.are.equal(two.port, server.port)
    assert.are.equal("imap", server.protocol)
  end)

  it("makes an object anew only where something of its server changed", function()
    local a, b, c = world:open(), world:open(), world:open()
    local targets = { engine.imap(a.port), engine.imap(b.port), engine.imap(c.port) }
    nb.configure(engine.config(targets))
    assert.is_true(nb.wait_ready(60))
    local before = nb.get_backend_servers()
    b:close()
    engine.await_verdict(nb, b.port, "dead")
    local fewer = nb.get_backend_servers()
    assert.are.equal(2, #fewer)
    assert.is_true(rawequal(before[1], fewer[1]))
    assert.is_true(rawequal(before[3], fewer[2]))
    b:reopen()
    engine.await_verdict(nb, b.port, "alive")
    local again = nb.get_backend_servers()
    assert.are.same({ a.port, b.port, c.port }, engine.ports(nb))
    assert.is_true(rawequal(before[1], again[1]))
    assert.is_true(rawequal(before[3], again[3]))
    targets[1].haproxy_v2 = not targets[1].haproxy_v2
    nb.configure(engine.config({ targets[3], targets[1] }))
    local changed = nb.get_backend_servers()
    assert.are.same({ c.port, a.port }, engine.ports(nb))
    assert.are.equal(targets[1].haproxy_v2, changed[2].haproxy_v2)
    assert.are_not.equal(before[1].haproxy_v2, changed[2].haproxy_v2)
  end)

  it("shows the address that a name was found at once it was probed", function()
    configure()
    assert.is_true(nb.wait_ready(60))
    engine.eventually("localhost has an address", function()
      for _, server in ipairs(nb.get_backend_servers()) do
        if server.host == "localhost" and server.ip == "127.0.0.1" then
          return true
        end
      end
    end)
  end)

  it("offers the same address twice when it is configured twice", function()
    nb.configure(engine.config({ engine.imap(one.port), engine.imap(one.port, { protocol = "sieve" }) }))
    local servers = nb.get_backend_servers()
    assert.are.equal("imap", servers[1].protocol)
    assert.are.equal("sieve", servers[2].protocol)
  end)

  it("takes no arguments to heart", function()
    assert.are.equal(3, #nb.get_backend_servers("imap", {}))
  end)
end)
