-- route(), explain_route(), nodes(): which server a user belongs on, without a store.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")

describe("route", function()
  local nb, world, a, b

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    a, b = world:open(), world:open()
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  local function target(peer, node, overrides)
    local settings = engine.imap(peer.port, overrides)
    settings.node = node
    return settings
  end

  local function configure(servers, overrides)
    local config = engine.config(servers, { node_down_after = 0, node_up_after = 0 })
    for key, value in pairs(overrides or {}) do
      config[key] = value
    end
    nb.configure(config)
    assert.is_true(nb.wait_ready(30))
  end

  -- How many of 200 users are on each node.
  local function shares(filter)
    local counts = {}
    for index = 1, 200 do
      local server = assert(nb.route("user" .. index .. "@example.org", filter))
      counts[server.node] = (counts[server.node] or 0) + 1
    end
    return counts
  end

  it("gives a server of the list, how it was found, and where it stands", function()
    configure({ target(a, "one"), target(b, "two") })
    local server, how, detail = nb.route("alice@example.org")
    assert.are.equal("hash", how)
    assert.are.same({ node = server.node, pool = "", degraded = false }, detail)
    assert.are.equal("127.0.0.1", server.ip)
    assert.are.equal(server.node == "one" and a.port or b.port, server.port)
    assert.are.equal(100, server.weight)
    assert.is_true(server == (nb.route("ALICE@EXAMPLE.ORG")), "one key, one object")
    assert.has_error(function() server.ip = "192.0.2.1" end)
  end)

  it("spreads users, and by weight", function()
    configure({ target(a, "one"), target(b, "two") })
    local even = shares()
    assert.is_true(even.one > 60 and even.two > 60, "about a half each")
    configure({ target(a, "one", { weight = 0 }), target(b, "two") })
    assert.are.same({ two = 200 }, shares())
  end)

  it("calls a node without weight usable in the metrics, as its servers are, and unused in nodes()", function()
    configure({ target(a, "one", { weight = 0 }), target(b, "two") })
    nb.set_node_weight("two", 0)
    finally(function() nb.set_node_weight("two", nil) end)
    local text = nb.metrics()
    for index, node in ipairs({ "one", "two" }) do
      local usable = ('nauthilus_backend_node_usable{node="%s",pool=""} 1\n'):format(node)
      assert.is_truthy(text:find(usable, 1, true), text)
      assert.are.same({ false, "weight 0" }, { nb.nodes()[index].usable, nb.nodes()[index].why })
    end
  end)

  it("takes a filter of server fields and pools, and refuses what it does not know", function()
    configure({ target(a, "one", { pool = "near" }), target(b, "two", { protocol = "pop3", pool = "far" }) })
    assert.are.equal(a.port, nb.route("alice", { protocol = "imap", pool = "near" }).port)
    assert.are.equal(b.port, nb.route("alice", { protocol = "pop3", pool = { "near", "far" } }).port)
    assert.are.equal(b.port, nb.route("alice", { port = b.port, tls = false, pool = "far" }).port)
    assert.are.same({ nil, "no node" }, { nb.route("alice") })
    assert.are.same({ nil, "no node" }, { nb.route("alice", { protocol = "sieve", pool = "near" }) })
    for filter, problem in pairs({
      [{ prot = "imap" }] = "prot: unknown field; did you mean port?",
      [{ port = "993" }] = "port: integer 0..65535 expected",
      [{ tls = "yes" }] = "tls: boolean expected",
      [{ pool = 5 }] = "pool: string or array of strings expected",
      [{ "imap" }] = "table of a server's fields expected, got list",
    }) do
      local ok, raised = pcall(nb.route, "alice", filter)
      assert.is_false(ok)
      assert.are.equal("bad argument #2 to 'route' (" .. problem .. ")", raised)
    end
    assert.has_error(function() nb.route(5) end, "bad argument #1 to 'route' (string expected, got number)")
    assert.has_error(function() nb.route("a", 5) end, "bad argument #2 to 'route' (table or nil expected, got number)")
  end)

  it("reads a filter anew each time, whatever table it is in", function()
    configure({ target(a, "one", { pool = "near" }), target(b, "two", { protocol = "pop3", pool = "far" }) })
    local filter = { protocol = "imap", pool = "near" }
    for _ = 1, 3 do
      assert.are.equal(a.port, nb.route("alice", filter).port)
      assert.are.equal(a.port, nb.route("alice", { pool = { "near" }, protocol = "imap" }).port)
      filter.protocol, filter.pool = "pop3", { "near", "far" }
      assert.are.equal(b.port, nb.route("alice", filter).port)
      filter.pool[2] = nil
      assert.are.same({ nil, "no node" }, { nb.route("alice", filter) })
      filter.pool[1] = "far"
      assert.are.equal(b.port, nb.route("alice", filter).port)
      filter.protocol, filter.pool = "imap", "near"
    end
    -- More filters than are cached.
    for number = 1, 600 do
      assert.are.same({ nil, "no node" }, { nb.route("alice", { port = number, pool = "near" }) })
    end
    assert.are.equal(a.port, nb.route("alice", filter).port)
    for _, odd in ipairs({ { pool = { { "near" } } }, { protocol = {} }, { [1] = "pool" }, { port = 0 / 0 } }) do
      assert.is_false((pcall(nb.route, "alice", odd)))
    end
  end)

  it("follows operators and configurations at once", function()
    configure({ target(a, "one"), target(b, "two") })
    local before = nb.route("alice")
    local left, other = before.node, before.node == "one" and "two" or "one"
    nb.set_target_state("node:" .. left, "maintenance")
    assert.are.equal(other, nb.route("alice").node)
    nb.set_target_state("node:" .. left, "auto")
    assert.are.equal(left, nb.route("alice").node)
    nb.set_node_weight(left, 0)
    assert.are.equal(other, nb.route("alice").node)
    nb.set_node_weight(left, nil)
    assert.are.equal(left, nb.route("alice").node)
    nb.set_target_state("node:" .. left, "drain", { ["for"] = "500ms" })
    assert.are.equal(other, nb.route("alice").node)
    engine.eventually("the drain is over", function()
      return nb.route("alice").node == left
    end)
    configure({ target(b, "two") })
    assert.are.equal("two", nb.route("alice").node)
  end)

  it("shows node, pool, weight and state of each server", function()
    configure({ target(a, "one", { pool = "near", weight = 7 }), target(b, "two") })
    for _, server in ipairs({ nb.get_backend_servers()[1], (nb.route("alice", { pool = "near", state = "auto" })) }) do
      assert.are.same({ "one", "near", 7, "auto" }, { server.node, server.pool, server.weight, server.state })
    end
    assert.are.equal("", nb.get_backend_servers()[2].pool)
    assert.are.same({ nil, "no node" }, { nb.route("alice", { pool = "near", state = "drain" }) })
    nb.set_node_weight("one", 9)
    assert.are.equal(9, nb.get_backend_servers()[1].weight)
    assert.are.equal(9, nb.route("alice", { pool = "near", weight = 9 }).weight)
    assert.are.same({ nil, "no node" }, { nb.route("alice", { pool = "near", weight = 7 }) })
    nb.set_node_weight("one", nil)
    assert.are.equal(7, nb.get_backend_servers()[1].weight)
  end)

  it("is counted, and so are selections", function()
    configure({ target(a, "one") })
    local function count(name)
      return tonumber(nb.metrics():match("\nnauthilus_backend_" .. name .. " (%d+)"))
    end
    local routes, selections = count('routes_total{how="hash"}'), count("selections_total")
    for _ = 1, 5 do
      local server = nb.route("alice")
      nb.route("alice", { protocol = "imap" })
      nb.select_backend_server(server.ip, server.port)
    end
    assert.are.same({ nil, "no node" }, { nb.route("alice", { protocol = "sieve" }) })
    nb.explain_route("alice")
    nb.select_backend_server("name.invalid", 143)
    assert.is_false((pcall(nb.select_backend_server, "127.0.0.1", 0)))
    assert.are.equal(routes + 10, count('routes_total{how="hash"}'))
    assert.are.equal(selections + 6, count("selections_total"))
    nb.context():reset()
  end)

  it("has no server for a name without a key", function()
    configure({ target(a, "one") }, { master_separator = "*", user_key = "domain" })
    for _, user in ipairs({ "", "alice", "*admin", ("a"):rep(1025) }) do
      assert.are.same({ nil, "no key" }, { nb.route(user) })
    end
    assert.is_not_nil(nb.route("bob@example.org*admin"))
  end)

  it("leaves a dead node after node_down_after and returns after node_up_after", function()
    configure({ target(a, "one"), target(b, "two") }, { node_down_after = "300ms", node_up_after = "300ms" })
    local user
    for index = 1, 100 do
      local name = "user" .. index
      if nb.route(name).node == "one" then
        user = name
        break
      end
    end
    assert.is_not_nil(user)
    a:close()
    engine.await_verdict(nb, a.port, "dead")
    -- The list follows at once, routing later; it may have followed by now.
    assert.are.same({ b.port }, engine.ports(nb))
    engine.eventually("the user is on the other node", function()
      return nb.route(user).node == "two"
    end)
    a:reopen()
    engine.await_verdict(nb, a.port, "alive")
    engine.eventually("the user is back", function()
      return nb.route(user).node == "one"
    end)
  end)

  it("uses servers that are late at a start as soon as they answer", function()
    local late = { world:open(), world:open() }
    late[1]:close()
    late[2]:close()
    configure({ target(late[1], "one"), target(late[2], "two") }, { node_down_after = "1h", node_up_after = "1h" })
    engine.eventually("there is no server", function()
      return select(2, nb.route("alice")) == "unusable"
    end)
    assert.are.equal("dead", nb.nodes()[1].why)
    for index, peer in ipairs(late) do
      peer:reopen()
      engine.eventually("it is used", function() return nb.nodes()[index].usable end)
    end
    local found = shares()
    assert.is_true(found.one > 60 and found.two > 60, "about a half each")
  end)

  it("keeps users on a node that is dead for less than node_down_after", function()
    configure({ target(a, "one"), target(b, "two") }, { node_down_after = "1h" })
    local before = shares()
    a:close()
    engine.await_verdict(nb, a.port, "dead")
    assert.are.same(before, shares())
    a:reopen()
    engine.await_verdict(nb, a.port, "alive")
  end)

  it("goes on with what matches where no node is whole, and says so", function()
    local closed = world:closed_port()
    local function pop3(node)
      return { protocol = "pop3", host = "127.0.0.1", port = closed, node = node }
    end
    configure({ target(a, "one"), target(b, "two"), pop3("one"), pop3("two") })
    local server, _, detail = nb.route("alice", { protocol = "imap" })
    assert.is_not_nil(server)
    assert.is_true(detail.degraded)
    assert.are.same({ nil, "unusable" }, { nb.route("alice", { protocol = "pop3" }) })
    for _, node in ipairs(nb.nodes()) do
      assert.is_false(node.usable)
      assert.are.equal("dead", node.why)
    end
  end)

  it("explains itself", function()
    configure({ target(a, "one"), target(b, "two", { weight = 0 }) })
    local explained = nb.explain_route("Alice@Example.org")
    assert.are.equal("alice@example.org", explained.key)
    assert.are.equal("hash", explained.how)
    assert.are.equal("one", explained.node)
    assert.are.equal("one", explained.candidates[1].node)
    assert.is_true(explained.candidates[1].usable)
    assert.is_true(explained.candidates[1].score > 0)
    assert.are.same({ node = "two", score = 0, usable = false, why = "weight 0" }, explained.candidates[2])
    nb.set_node_weight("two", 50)
    assert.are.equal(50, nb.nodes()[2].weight)
    assert.is_true(nb.nodes()[2].usable)
    nb.set_node_weight("two", nil)
    assert.are.same({ nil, "no key" }, { nb.explain_route("") })
    local nodes = nb.nodes()
    assert.are.same({ node = "one", pool = "", weight = 100, usable = true, state = "auto" }, nodes[1])
    assert.are.same({ node = "two", pool = "", weight = 0, usable = false, why = "weight 0", state = "auto" }, nodes[2])
  end)

  it("explains the pool that a user is routed in", function()
    local dead = engine.imap(world:closed_port(), { node = "one", pool = "near" })
    configure({ dead, target(b, "two", { pool = "far" }) })
    local explained = nb.explain_route("alice", { pool = { "near", "far" } })
    assert.are.equal("two", explained.node)
    assert.are.equal("two", explained.candidates[1].node)
    assert.are.equal("one", nb.explain_route("alice", { pool = "near" }).candidates[1].node)
  end)

  it("has no bindings without a store", function()
    for _, name in ipairs({ "touch_users", "move_user", "forget_user", "hold_user", "flush_node" }) do
      local users = name == "touch_users" and { "alice" } or "alice"
      local second = name == "hold_user" and "10m" or "one"
      if name == "forget_user" or name == "flush_node" then
        second = nil
      end
      assert.are.same({ nil, "no store" }, { nb[name](users, second) })
    end
  end)

  it("keeps verdicts when only the place of a target changes", function()
    configure({ target(a, "one") })
    local probes = engine.target(nb, a.port).probes
    nb.configure(engine.config({ target(a, "other", { weight = 7 }) }))
    local now = engine.target(nb, a.port)
    assert.are.equal("alive", now.verdict)
    assert.is_true(now.probes >= probes)
    assert.are.equal("other", nb.route("alice").node)
  end)
end)
