-- route() with a store: users are bound to nodes in a real Redis.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")
local redis_servers = require("spec.support.redis")
local socket = require("socket")

describe("route with a store", function()
  local nb, world, redis, url, ports

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world, redis = peers.new(), redis_servers.new()
    url = "redis://127.0.0.1:" .. redis:start("one").port
    ports = { a = world:open(), b = world:open(), c = world:open() }
  end)

  lazy_teardown(function()
    nb.stop()
    -- First: it was started later, and so inherited the other one's channel.
    redis:quit()
    world:stop()
  end)

  -- Configures nodes with these names, each with one port; `cluster` changes the settings of the store.
  local function configure(nodes, cluster, overrides)
    local settings = { redis = url, timeout = "5s" }
    nb.configure(engine.nodes(nodes, ports, engine.changed(settings, cluster), overrides))
    assert.is_true(nb.wait_ready(30))
  end

  before_each(function()
    redis:cli("one", "FLUSHALL")
  end)

  it("binds with the first login and keeps the binding", function()
    configure("ab", { prefix = "first" })
    local server, how, detail = nb.route("alice@example.org")
    assert.are.equal("new", how)
    assert.are.equal(detail.node, server.node)
    assert.are.equal(ports[server.node].port, server.port)
    assert.are.equal("login", detail.reason)
    assert.are.equal("string", type(detail.by))
    assert.is_true(math.abs(detail.since - os.time()) < 60)
    assert.is_true(math.abs(detail["until"] - detail.since - 86400) < 1)
    assert.is_false(detail.degraded)
    local again, bound = nb.route("Alice@Example.org")
    assert.are.same({ server.node, "bound" }, { again.node, bound })
    local keys = redis:cli("one", "KEYS", "{first}:user:*")
    assert.is_truthy(keys:find("^{first}:user:%x+$"), keys)
    assert.are.equal(server.node, redis:cli("one", "HGET", keys, "node"))
  end)

  it("keeps users where they are when a node comes", function()
    configure("ab", { prefix = "comes" })
    local before = {}
    for index = 1, 30 do
      before[index] = nb.route("user" .. index).node
    end
    configure("abc", { prefix = "comes" })
    for index = 1, 30 do
      local server, how = nb.route("user" .. index)
      assert.are.same({ before[index], "bound" }, { server.node, how })
    end
  end)

  it("names users by a keyed hash where a key is given", function()
    local key = redis:file("key", { text = "secret key\n" }).path
    configure("ab", { prefix = "keyed", key_file = key })
    nb.route("alice")
    -- HMAC-SHA-256 of "alice" with the key "secret key".
    local digest = "d7a0e1d1a8a8bd6a7c5d6d4b"
    local keys = redis:cli("one", "KEYS", "{keyed}:user:*")
    assert.are.equal(#"{keyed}:user:" + 64, #keys)
    assert.is_nil(keys:find(digest, 1, true))
    assert.is_nil(keys:find("2bd806c97f0e00af1a1fc3328fa763a9269723c8", 1, true), "not SHA-256")
  end)

  it("begins a route and tells when it is done", function()
    configure("ab", { prefix = "begun" })
    local route = nb.start_route("bob", { protocol = "imap" })
    local readable = socket.select({ { getfd = function() return route:fd() end } }, nil, 60)
    assert.are.equal(1, #readable)
    assert.is_true(route:done())
    assert.is_true(route:wait(60))
    local server, how, detail = route:result()
    assert.are.same({ "new", detail.node }, { how, server.node })
    local cancelled = nb.start_route("bob")
    cancelled:cancel()
    assert.is_true(cancelled:done())
    assert.are.same({ nil, "no key" }, { nb.start_route("") })
    assert.has_error(function() nb.start_route("bob", { prot = "imap" }) end,
      "bad argument #2 to 'start_route' (prot: unknown field; did you mean port?)")
  end)

  it("begins a route without a store as well", function()
    nb.configure(engine.config({ engine.imap(ports.a.port, { node = "a" }) }))
    local route = nb.start_route("bob")
    local server, how = route:result()
    assert.are.same({ "a", "hash" }, { server.node, how })
  end)

  it("says no more than the reason where there is no server", function()
    configure("ab", { prefix = "none" })
    nb.route("alice")
    assert.are.same({ nil, "no such protocol on the bound node" }, { nb.route("alice", { protocol = "pop3" }) })
    assert.are.same({ nil, "no node" }, { nb.route("zoe", { protocol = "pop3" }) })
    assert.are.same({ nil, "no key" }, { nb.route("") })
    assert.has_error(function() nb.route("alice", { prot = "imap" }) end,
      "bad argument #2 to 'route' (prot: unknown field; did you mean port?)")
  end)

  it("remembers while the store is away, and fills an emptied one", function()
    configure("ab", { prefix = "away", timeout = "200ms" })
    -- On a busy machine the first login may wait for longer than that.
    local server
    engine.eventually("the login is bound", function()
      local found, first = nb.route("alice")
      server = found
      return first ~= "fallback" and first ~= "remembered"
    end)
    assert.is_truthy(server)
    local stored = redis:cli("one", "KEYS", "{away}:user:*")
    redis:freeze("one")
    local kept, how = nb.route("alice")
    local other, fallback = nb.route("zoe")
    redis:thaw("one")
    assert.are.same({ server.node, "remembered" }, { kept.node, how })
    assert.are.equal("fallback", fallback)
    assert.is_truthy(other)
    redis:cli("one", "DEL", stored)
    engine.eventually("the store answers again", function()
      return select(2, nb.route("alice")) == "bound"
    end)
    assert.are.equal(server.node, redis:cli("one", "HGET", stored, "node"))
  end)

  it("takes a draining node's users no more, and keeps those it has", function()
    configure("ab", { prefix = "drain" }, { drain_time = "1h" })
    local node = nb.route("alice").node
    nb.set_target_state("node:" .. node, "drain")
    local kept, how = nb.route("alice")
    assert.are.same({ node, "bound" }, { kept.node, how })
    for index = 1, 20 do
      assert.are_not.equal(node, nb.route("new" .. index).node)
    end
    nb.set_target_state("node:" .. node, "auto")
  end)

  it("remembers the whole binding of a draining node's user", function()
    configure("ab", { prefix = "drained", timeout = "500ms", retention = "12h" }, { drain_time = "1h" })
    local node
    engine.eventually("the login is bound", function()
      local found, how = nb.route("alice")
      node = found.node
      return how == "bound"
    end)
    finally(function()
      redis:thaw("one")
      nb.set_target_state("node:" .. node, "auto")
    end)
    local function hours_left()
      local _, how, detail = nb.route("alice")
      return how .. " " .. math.floor((detail["until"] - os.time()) / 3600 + 0.5)
    end
    nb.set_target_state("node:" .. node, "drain")
    engine.eventually("the binding ends with the drain", function() return hours_left() == "bound 1" end)
    redis:freeze("one")
    engine.eventually("the store fails", function() return hours_left() == "remembered 1" end)
    nb.set_target_state("node:" .. node, "auto")
    assert.are.equal("remembered 12", hours_left())
  end)

  -- How often Redis was connected to since it began to count.
  local function connections()
    return tonumber(redis:cli("one", "INFO", "stats"):match("total_connections_received:(%d+)"))
  end

  it("goes on over the same connection, also with logins under way, when a reload leaves the store as it is", function()
    local same = { prefix = "reloaded", on_error = "refuse" }
    configure("ab", same)
    for index = 1, 150 do
      nb.route("user" .. index)
    end
    local before = connections()
    for round = 1, 5 do
      local routes = {}
      for index = 1, 150 do
        routes[index] = nb.start_route("user" .. index)
      end
      configure(round % 2 == 0 and "ab" or "abc", same)
      for _, route in ipairs(routes) do
        assert.is_true(route:wait(60))
        assert.are.equal("bound", (select(2, route:result())))
      end
    end
    -- One for each question, this one included.
    assert.are.equal(before + 1, connections())
    configure("ab", { prefix = "other", on_error = "refuse" })
    nb.route("alice")
    assert.are.equal(before + 3, connections())
  end)

  it("registers the nodes of a new configuration before a login may use them", function()
    configure("ab", { prefix = "added" })
    nb.route("alice")
    for _, nodes in ipairs({ "abc", "ab", "abc" }) do
      configure(nodes, { prefix = "added" })
      nb.route("alice")
      local machine = redis:cli("one", "KEYS", "{added}:machines:*")
      assert.are.equal(nodes == "abc", redis:cli("one", "HGET", machine, "nodes"):find("c\t", 1, true) ~= nil)
    end
  end)

  it("connects through a Unix socket, with a user and a password", function()
    local path = redis:start("two", { options = "--requirepass|s3cret" }).socket
    local password = redis:file("password", { text = "s3cret\n" }).path
    configure("ab", { redis = "unix:" .. path, password_file = password })
    assert.are.equal("new", (select(2, nb.route("carol"))))
    local state = engine.all_text(nb.status())
    assert.is_nil(state:find("s3cret", 1, true))
  end)
end)
