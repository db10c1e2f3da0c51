-- Which nodes new users are bound to, and which keep the users that they have: while a node is draining, and before
-- routing follows a first verdict.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")
local redis_servers = require("spec.support.redis")

describe("with bindings in Redis", function()
  local nb, world, redis, url, ports
  local number = 0

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world, redis = peers.new(), redis_servers.new()
    url = "redis://127.0.0.1:" .. redis:start("one").port
    ports = { a = world:open().port, b = world:open().port, more = world:open().port, dead = world:closed_port() }
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

  -- Configures servers and a store with a prefix of its own; returns what configures them again, with other settings.
  local function configure(servers, overrides, cluster)
    number = number + 1
    local settings = engine.changed({ redis = url, timeout = "5s", prefix = "nodes" .. number, min_stay = 0 }, cluster)
    local function again(changes)
      nb.configure(engine.config(servers, engine.changed({
        connect_timeout = "5s", node_down_after = 0, node_up_after = 0, cluster = settings,
      }, changes)))
      assert.is_true(nb.wait_ready(30))
    end
    again(overrides)
    return again
  end

  -- This machine remembers its users whatever the store is: each test has users of its own.
  local function user(name)
    return name .. number .. "@nodes.example.org"
  end

  local function node_of(name)
    local server, how, detail = nb.route(user(name), { protocol = "imap" })
    return server and server.node, how, detail and detail.degraded
  end

  -- The nodes, or what `shows` gives of a server, of 60 users without a binding.
  local function of_new_users(name, shows)
    local seen, all = {}, {}
    for index = 1, 60 do
      local server, how = nb.route(user(name .. index), { protocol = "imap" })
      assert.are.equal("new", how)
      local shown = shows and shows(server) or server.node
      if not seen[shown] then
        seen[shown] = true
        all[#all + 1] = shown
      end
    end
    table.sort(all)
    return all
  end

  local function imap(port, node, overrides)
    return engine.imap(port, engine.changed({ node = node }, overrides))
  end

  -- Routing follows a verdict just after `status()` has it.
  local function await_why(name, why)
    engine.eventually(name .. " is " .. (why or "usable"), function()
      for _, node in ipairs(nb.nodes()) do
        if node.node == name then
          return node.why == why
        end
      end
    end)
  end

  it("a server that is late at a start keeps its users, takes no others, and is used when it answers", function()
    local late = world:open()
    late:close()
    local again = configure({ imap(late.port, "a"), imap(ports.b, "b") },
      { node_down_after = "1h", node_up_after = "1h" })
    nb.move_user(user("alice"), "a")
    await_why("a", "dead")
    assert.are.same({ "a", "bound", false }, { node_of("alice") })
    assert.are.same({ "b" }, of_new_users("early"))
    -- The machine's vote for `verdicts: quorum` is the same. What an operator sets is sent with a registration.
    local prefix = "{nodes" .. number .. "}:"
    nb.set_node_weight("b", 99)
    finally(function() nb.set_node_weight("b", nil) end)
    engine.eventually("a registration", function()
      return redis:cli("one", "HGET", prefix .. "store:settings", "weight:node:b"):find("99", 1, true)
    end)
    local registration = redis:cli("one", "KEYS", prefix .. "machines:*")
    assert.are.equal("\na\tu0\nb\tu0", "\n" .. redis:cli("one", "HGET", registration, "nodes"))
    late:reopen()
    await_why("a", nil)
    assert.are.same({ "a", "b" }, of_new_users("later"))
    -- From now on it is a node like any other.
    late:close()
    engine.await_verdict(nb, late.port, "dead")
    assert.are.same({ "a", "b" }, of_new_users("at last"))
    again({ node_down_after = 0 })
    engine.eventually("the user is moved", function() return node_of("alice") == "b" end)
  end)

  it("a server that does not answer after a start loses its users after node_down_after", function()
    local again = configure({ imap(ports.dead, "a"), imap(ports.b, "b") }, { node_down_after = "1h" })
    nb.move_user(user("alice"), "a")
    assert.are.same({ "a", "bound", false }, { node_of("alice") })
    again({ node_down_after = "10ms" })
    engine.eventually("the user is moved", function() return node_of("alice") == "b" end)
  end)

  it("a draining node is none that takes the users of another: what matches counts then", function()
    configure({
      imap(ports.a, "a"), imap(ports.b, "b"), { protocol = "lmtp", host = "127.0.0.1", port = ports.dead, node = "b" },
    })
    await_why("b", "dead")
    nb.move_user(user("alice"), "a")
    nb.move_user(user("bob"), "b")
    nb.set_target_state("node:a", "drain")
    assert.are.same({ "a", "bound", false }, { node_of("alice") })
    assert.are.same({ "b", "bound", true }, { node_of("bob") })
    assert.are.same({ "b", "new", true }, { node_of("carol") })
    nb.set_target_state("node:a", "auto")
    assert.are.same({ "a", "moved", false }, { node_of("bob") })
  end)

  it("a node without vital targets drains like others", function()
    configure({ imap(ports.a, "a", { vital = false }), imap(ports.b, "b", { vital = false }) },
      { drain_time = "10ms" })
    nb.move_user(user("alice"), "a")
    nb.set_target_state("node:a", "drain")
    assert.are.same({ "b" }, of_new_users("new"))
    engine.eventually("the user is moved", function() return node_of("alice") == "b" end)
  end)

  it("a draining target is given to nobody while its node has another one", function()
    configure({ imap(ports.a, "a"), imap(ports.more, "a", { vital = false }), imap(ports.b, "b") })
    local function port(server) return server.port end
    local all = { ports.a, ports.b, ports.more }
    table.sort(all)
    assert.are.same(all, of_new_users("before", port))
    nb.set_target_state("imap://127.0.0.1:" .. ports.more, "drain")
    local left = { ports.a, ports.b }
    table.sort(left)
    assert.are.same(left, of_new_users("during", port))
    for index = 1, 60 do
      local server, how = nb.route(user("before" .. index), { protocol = "imap" })
      assert.are.equal("bound", how)
      assert.are_not.equal(ports.more, server.port)
    end
  end)

  it("users whose bindings live sessions have renewed stay while Redis fails", function()
    local servers = { imap(ports.a, "a"), imap(ports.b, "b") }
    configure(servers, nil, { timeout = "300ms", retention = "2s" })
    local hashed = nb.explain_route(user("alice")).candidates[1].node
    local other = hashed == "a" and "b" or "a"
    -- The login alone: it is the binding of 2 s that this machine remembers.
    local bound_at
    engine.eventually("the sessions are reported for longer than the login's binding lasts", function()
      if nb.touch_users({ user("alice") }, other) ~= 1 then
        nb.move_user(user("alice"), other)
        bound_at = engine.now()
      end
      return bound_at and engine.now() - bound_at > 2.2
    end)
    redis:freeze("one")
    finally(function() redis:thaw("one") end)
    assert.are.same({ other, "remembered", false }, { node_of("alice") })
  end)
end)
