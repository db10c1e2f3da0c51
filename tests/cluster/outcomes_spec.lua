-- Each `how` of route and each of its reasons, with a real Redis; and that the metrics count each of them.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")
local redis_servers = require("spec.support.redis")

describe("an outcome of route", function()
  local nb, world, redis, url, ports
  local number = 0

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world, redis = peers.new(), redis_servers.new()
    url = "redis://127.0.0.1:" .. redis:start("one").port
    ports = { a = world:open().port, b = world:open().port }
  end)

  lazy_teardown(function()
    nb.stop()
    -- First: it was started later, and so inherited the other one's channel.
    redis:quit()
    world:stop()
  end)

  after_each(function()
    engine.clear_operators(nb)
  end)

  -- Configures nodes with these names, a store, and a prefix of their own.
  local function configure(nodes, cluster)
    number = number + 1
    local settings = { redis = url, timeout = "5s", prefix = "outcomes" .. number, min_stay = 0 }
    for key, value in pairs(cluster or {}) do
      settings[key] = value
    end
    local servers = {}
    for name in nodes:gmatch("%a") do
      servers[#servers + 1] = engine.imap(ports[name], { node = name })
    end
    nb.configure(engine.config(servers, {
      connect_timeout = "5s", node_down_after = 0, node_up_after = 0, cluster = settings,
    }))
    assert.is_true(nb.wait_ready(30))
    return settings.prefix
  end

  -- This machine remembers its users whatever the store is: each test has users of its own.
  local function user(name)
    return name .. number .. "@outcomes.example.org"
  end

  local function other(node)
    return node == "a" and "b" or "a"
  end

  local function counted(family, label, value)
    local line = ('nauthilus_backend_%s_total{%s="%s"} '):format(family, label, value)
    local text = nb.metrics()
    local _, last = text:find(line, 1, true)
    assert.is_truthy(last, line)
    return tonumber(text:match("^%d+", last + 1))
  end

  -- The engine counts a route just after it has answered the caller.
  local function await_count(count, ...)
    local labels = { ... }
    engine.eventually("the count", function() return counted(labels[1], labels[2], labels[3]) >= count end)
    assert.are.equal(count, counted(...))
  end

  -- Takes a node out of use at once; returns what undoes that.
  local function unusable(node)
    nb.set_target_state("node:" .. node, "maintenance")
    return function() nb.set_target_state("node:" .. node, "auto") end
  end

  -- Checks that route answers in this way and that the metrics count it, once.
  local function assert_how(how, node, name, filter)
    local before = counted("routes", "how", how)
    local server, got, detail = nb.route(name, filter)
    assert.are.same({ node, how, node }, { server and server.node, got, detail and detail.node })
    await_count(before + 1, "routes", "how", how)
    return detail
  end

  local function assert_reason(reason, name, filter, of_metric)
    local before = counted("routes_refused", "reason", of_metric or reason)
    assert.are.same({ nil, reason }, { nb.route(name, filter) })
    await_count(before + 1, "routes_refused", "reason", of_metric or reason)
  end

  it("may be hash", function()
    nb.configure(engine.config({ engine.imap(ports.a, { node = "a" }) }, { node_down_after = 0, node_up_after = 0 }))
    assert.is_true(nb.wait_ready(30))
    assert_how("hash", "a", "alice")
  end)

  it("may be new, then bound", function()
    configure("ab")
    local node = nb.explain_route(user("alice")).node
    assert_how("new", node, user("alice"))
    local detail = assert_how("bound", node, user("alice"))
    assert.are.equal("login", detail.reason)
  end)

  it("may be moved", function()
    configure("ab")
    local node = nb.route(user("alice")).node
    local undo = unusable(node)
    local detail = assert_how("moved", other(node), user("alice"))
    assert.are.same({ node, "unusable" }, { detail.from, detail.reason })
    undo()
    -- The node is usable again, and the user stays on the node to which the login moved it.
    assert_how("bound", other(node), user("alice"))
  end)

  it("may be pinned", function()
    configure("ab")
    nb.move_user(user("alice"), "b", { keep = true, by = "ann", reason = "on request" })
    local detail = assert_how("pinned", "b", user("alice"))
    assert.are.same({ "ann", "on request" }, { detail.by, detail.reason })
    assert.is_nil(detail["until"])
  end)

  it("may be remembered, or fallback", function()
    configure("ab", { timeout = "200ms" })
    local node
    engine.eventually("the user is bound", function()
      local server, how = nb.route(user("alice"))
      node = server.node
      return how == "new" or how == "bound"
    end)
    redis:freeze("one")
    finally(function() redis:thaw("one") end)
    assert_how("remembered", node, user("alice"))
    local hashed = nb.explain_route(user("zoe")).candidates[1].node
    assert_how("fallback", hashed, user("zoe"))
  end)

  it("may be that there is no key", function()
    configure("ab")
    assert_reason("no key", "")
    assert_reason("no key", ("x"):rep(1025))
  end)

  it("may be that there is no node", function()
    configure("ab")
    assert_reason("no node", user("alice"), { protocol = "pop3" })
    assert_reason("no node", user("alice"), { pool = "elsewhere" })
  end)

  it("may be that no node is usable, or not the user's, which is not to be left", function()
    configure("ab")
    local undo_a, undo_b = unusable("a"), unusable("b")
    assert_reason("unusable", user("alice"))
    undo_a()
    undo_b()
    configure("ab", { node_failover = "refuse" })
    local node = nb.route(user("bob")).node
    local undo = unusable(node)
    assert_reason("unusable", user("bob"))
    undo()
    ports.dead = world:closed_port()
    nb.configure(engine.config({ engine.imap(ports.dead, { node = "a" }) }, {
      node_down_after = 0, node_up_after = 0, failure_threshold = 1, panic_threshold = 0,
      cluster = { redis = url, timeout = "5s", prefix = "down" },
    }))
    assert.is_true(nb.wait_ready(30))
    assert_reason("unusable", user("carol"))
  end)

  it("may be that the user's node does not have the protocol", function()
    configure("ab")
    nb.route(user("alice"))
    assert_reason("no such protocol on the bound node", user("alice"), { protocol = "pop3" })
  end)

  it("may be that the user is held", function()
    configure("ab")
    nb.hold_user(user("alice"), "1h")
    assert_reason("held", user("alice"))
  end)

  it("may be that the user is moving", function()
    configure("ab", { move_delay = "1h" })
    local node = nb.route(user("alice")).node
    local undo = unusable(node)
    assert_reason("moving", user("alice"))
    undo()
    assert_reason("moving", user("alice"))
  end)

  it("may be unstable", function()
    configure("ab", { min_stay = "1h" })
    local node = nb.route(user("alice")).node
    nb.move_user(user("alice"), other(node))
    local undo = unusable(other(node))
    assert_reason("unstable", user("alice"))
    undo()
    assert_how("bound", other(node), user("alice"))
  end)

  it("may be that the user's node is unknown", function()
    local prefix = configure("ab")
    local alice = user("alice")
    nb.move_user(alice, "b")
    -- Other machines count as not yet registered for 10 s after the store was empty.
    nb.configure(engine.config({ engine.imap(ports.a, { node = "a" }) }, {
      node_down_after = 0, node_up_after = 0, cluster = { redis = url, timeout = "5s", prefix = prefix },
    }))
    assert.is_true(nb.wait_ready(30))
    redis:cli("one", "HSET", "{" .. prefix .. "}:store", "born", tostring(os.time() * 1000 + 3600000))
    assert_reason("unknown node b", alice, nil, "unknown node")
    assert.are.equal("unknown node b", nb.explain_route(alice).reason)
  end)

  it("may be that the user is pinned to an unusable node", function()
    configure("ab")
    nb.move_user(user("alice"), "b", { keep = true })
    local undo = unusable("b")
    assert_reason("pinned to b, which is unusable", user("alice"), nil, "pinned")
    undo()
  end)

  it("may be that the store is unavailable", function()
    configure("ab", { redis = "redis://127.0.0.1:" .. world:closed_port(), on_error = "refuse" })
    assert_reason("store unavailable", user("alice"))
  end)

  it("is one of those that the documentation lists", function()
    local page = assert(io.open("docs/routing.md"))
    local text = page:read("*a")
    page:close()
    local reasons = text:match("| reason | meaning |\n(.-)\n\n")
    local listed = {}
    for reason in reasons:gmatch("\n| `([^`]+)` |") do
      listed[#listed + 1] = reason:gsub(" N$", ""):gsub(" to N, which is unusable$", "")
    end
    assert.are.equal(10, #listed)
    configure("ab")
    for _, reason in ipairs(listed) do
      assert.are.equal("number", type(counted("routes_refused", "reason", reason)))
    end
    for how in text:match("| how | the server is |\n(.-)\n\n"):gmatch("\n| `([^`]+)` |") do
      assert.are.equal("number", type(counted("routes", "how", how)))
    end
  end)
end)
