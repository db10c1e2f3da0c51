-- What operators and hosts do to users' bindings in a real Redis.

local engine = require("spec.support.engine")
local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")
local redis_servers = require("spec.support.redis")

describe("bindings in a store", function()
  local nb, world, redis, url, ports
  local number = 0

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world, redis = peers.new(), redis_servers.new()
    url = "redis://127.0.0.1:" .. redis:start("one").port
    ports = { a = world:open(), b = world:open(), c = world:open() }
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
    redis:quit()
  end)

  -- Configures nodes with these names, each with one port, and a prefix of its own. Returns the prefix.
  local function configure(nodes, cluster, overrides)
    number = number + 1
    local settings = { redis = url, timeout = "5s", prefix = "bindings" .. number }
    nb.configure(engine.nodes(nodes, ports, engine.changed(settings, cluster), overrides))
    assert.is_true(nb.wait_ready(30))
    return settings.prefix
  end

  -- This machine remembers its users whatever the store is: each test has users of its own.
  local function user(name)
    return name .. number .. "@example.org"
  end

  local function other(node)
    return node == "a" and "b" or "a"
  end

  -- The last event of a type.
  local function last_event(kind)
    local found
    for _, event in ipairs(nb.events()) do
      if event.type == kind then
        found = event
      end
    end
    return found
  end

  it("moves a user to a node", function()
    configure("ab")
    local alice = user("alice")
    local from = nb.route(alice).node
    local to = other(from)
    local done, detail = nb.move_user(alice:upper(), to, { reason = "full disk", by = "ann" })
    assert.is_true(done)
    assert.are.same({ to, from, "full disk", "ann", true },
      { detail.node, detail.from, detail.reason, detail.by, detail.left })
    local server, how, known = nb.route(user("alice"))
    assert.are.same({ to, "bound", from, "ann" }, { server.node, how, known.from, known.by })
    local event = last_event("move")
    assert.are.same({ from, to, "full disk", "ann" }, { event.from, event.to, event.reason, event.by })
  end)

  it("keeps a pinned user from every other node", function()
    configure("ab")
    nb.move_user(user("alice"), "b", { keep = true })
    assert.are.same({ "b", "pinned" }, { nb.route(user("alice")).node, (select(2, nb.route(user("alice")))) })
    nb.set_target_state("node:b", "maintenance")
    assert.are.same({ nil, "pinned to b, which is unusable" }, { nb.route(user("alice")) })
    local explained = nb.explain_route(user("alice"))
    assert.are.same({ "b", "pinned to b, which is unusable" }, { explained.node, explained.reason })
    nb.set_target_state("node:b", "auto")
    assert.is_true((nb.move_user(user("alice"), "b")))
    assert.are.equal("bound", (select(2, nb.route(user("alice")))))
  end)

  it("forgets a user", function()
    configure("ab")
    local node = nb.route(user("alice")).node
    nb.move_user(user("alice"), other(node))
    local done, detail = nb.forget_user(user("alice"), { by = "ann" })
    assert.is_true(done)
    assert.are.same({ nil, other(node), true }, { detail.node, detail.from, detail.left })
    -- Back where hashing puts the user, which is a move from the node that was forgotten.
    local server, how = nb.route(user("alice"))
    assert.are.same({ node, "moved" }, { server.node, how })
    assert.is_false((select(2, nb.forget_user("nobody"))).left)
  end)

  it("holds a user for some time", function()
    configure("ab")
    local node = nb.route(user("alice")).node
    assert.is_true((nb.hold_user(user("alice"), "1h", { reason = "repair" })))
    assert.are.same({ nil, "held" }, { nb.route(user("alice")) })
    local explained = nb.explain_route(user("alice"))
    assert.are.same({ node, "held" }, { explained.node, explained.reason })
    assert.is_true((nb.hold_user(user("alice"), 0)))
    assert.are.equal(node, nb.route(user("alice")).node)
    nb.hold_user(user("alice"), 0.2)
    engine.eventually("the hold has ended", function() return nb.route(user("alice")) end)
  end)

  it("renews the bindings of users with live sessions", function()
    local prefix = configure("ab", { retention = "1h" })
    local on, count = {}, 0
    for index = 1, 1200 do
      on[index] = user("user" .. index)
    end
    for index = 1, 20 do
      count = count + (nb.route(on[index]).node == "a" and 1 or 0)
    end
    local keys = redis:cli("one", "KEYS", "{" .. prefix .. "}:user:*")
    assert.is_truthy(keys:find("user", 1, true))
    on[#on + 1] = ""
    assert.are.equal(count, nb.touch_users(on, "a"))
    assert.are.equal(20 - count, nb.touch_users(on, "b"))
    assert.are.equal(0, nb.touch_users({}, "a"))
    -- A name is counted as a whole, whatever bytes are in it.
    local node = nb.route(on[1]).node
    assert.are.equal(0, nb.touch_users({ "x\0" .. on[1], on[1] .. "\0", "\0" }, node))
    assert.are.equal(1, nb.touch_users({ on[1], n = 1 }, node))
    -- Each user counts once.
    assert.are.equal(1, nb.touch_users({ on[1], on[1], on[1]:upper() }, node))
    assert.are.same({ nil, "unknown node z" }, { nb.touch_users(on, "z") })
  end)

  it("releases the bindings of a node in the background", function()
    configure("ab")
    for index = 1, 40 do
      nb.move_user(user("user" .. index), index <= 30 and "a" or "b")
    end
    assert.is_true(nb.flush_node("a", { rate = 1000, by = "ann", reason = "reboot" }))
    engine.eventually("all are released", function()
      for index = 1, 30 do
        if nb.explain_route(user("user" .. index)).how == "bound" then
          return false
        end
      end
      return true
    end)
    for index = 31, 40 do
      assert.are.equal("bound", nb.explain_route(user("user" .. index)).how)
    end
    local event = last_event("operator")
    assert.are.same({ "a", "flush", "ann", "reboot" }, { event.node, event.to, event.by, event.reason })
  end)

  it("releases who is not where hashing puts users, at the rate that was given", function()
    configure("ab")
    local moved = {}
    for index = 1, 12 do
      local name = user("user" .. index)
      local node = nb.route(name).node
      if index % 3 == 0 then
        nb.forget_user(name)
      end
      nb.move_user(name, other(node))
      -- With and without a login since then.
      if index % 2 == 0 then
        nb.route(name)
      end
      moved[index] = name
    end
    local before = os.time()
    assert.is_true(nb.flush_node(nil, { rate = 5 }))
    engine.eventually("all are released", function()
      for index = 1, #moved do
        if nb.explain_route(moved[index]).how == "bound" then
          return false
        end
      end
      return true
    end)
    -- The eleven pauses between twelve releases are 2.2 s.
    assert.is_true(os.time() - before >= 1)
  end)

  it("explains without a change", function()
    configure("ab")
    local explained = nb.explain_route(user("Alice"))
    assert.are.same({ user("alice"), "new" }, { explained.key, explained.how })
    assert.are.equal(2, #explained.candidates)
    assert.are.equal("new", nb.explain_route(user("alice")).how)
    local server = nb.route(user("alice"))
    explained = nb.explain_route(user("alice"))
    assert.are.same({ server.node, "bound", "login" }, { explained.node, explained.how, explained.reason })
    assert.is_true(explained["until"] > explained.since)
    assert.are.same({ nil, "no key" }, { nb.explain_route("") })
    assert.has_error(function() nb.explain_route(user("alice"), { prot = 1 }) end,
      "bad argument #2 to 'explain_route' (prot: unknown field; did you mean port?)")
  end)

  it("counts the users of the nodes", function()
    configure("ab")
    for index = 1, 10 do
      nb.move_user(user("user" .. index), index <= 7 and "a" or "b")
    end
    nb.move_user(user("user1"), "b")
    nb.set_target_state("node:b", "drain", { by = "ann" })
    engine.eventually("the numbers are known", function()
      local nodes = {}
      for _, node in ipairs(nb.nodes()) do
        nodes[node.node] = node
      end
      local a, b = nodes.a, nodes.b
      return a.users == 6 and b.users == 4 and b.moved_in == 1 and a.moved_out == 1
        and a.state == "auto" and b.state == "drain" and math.abs(b.since - os.time()) < 60
    end)
    nb.set_target_state("node:b", "auto")
  end)

  it("shows what an operator has set on another machine", function()
    local prefix = configure("ab")
    nb.route(user("alice"))
    local program = string.format([[
      local nb = require("nauthilus_backend")
      local function target(port, node) return { protocol = "imap", host = "127.0.0.1", port = port, node = node } end
      nb.configure({ backend_servers = { target(%d, "a"), target(%d, "b") }, log = "none",
        cluster = { redis = %q, prefix = %q, timeout = "5s" } })
      nb.wait_ready(30)
      nb.route("bob")
      nb.set_target_state("node:b", "drain", { reason = "new disk", by = "ann" })
      -- The engine registers with what is new after at most 250 ms.
      os.execute("sleep 4")
    ]], ports.a.port, ports.b.port, url, prefix)
    local printed, well = interpreter.run(program)
    assert.is_true(well, printed)
    engine.eventually("the state is known here", function()
      local event = last_event("operator")
      return event.reason == "new disk"
    end)
    local event = last_event("operator")
    assert.are.same({ "b", "auto", "drain", "ann" }, { event.node, event.from, event.to, event.by })
    for _, node in ipairs(nb.nodes()) do
      assert.are.equal(node.node == "b" and "drain" or "auto", node.state)
    end
    nb.set_target_state("node:b", "auto")
  end)

  it("writes a pin again that the store has lost", function()
    local prefix = configure("ab")
    nb.move_user(user("alice"), "b", { keep = true })
    redis:cli("one", "DEL", (redis:cli("one", "KEYS", "{" .. prefix .. "}:user:*")))
    assert.are.same({ "b", "pinned" }, { nb.route(user("alice")).node, (select(2, nb.route(user("alice")))) })
  end)

  it("refuses what is no argument of these calls", function()
    configure("ab")
    for _, case in ipairs({
      { "bad argument #1 to 'touch_users' (array of strings expected, got string)", "touch_users", "alice", "a" },
      { "bad argument #1 to 'touch_users' (string expected at index 1, got number)", "touch_users", { 1 }, "a" },
      { "bad argument #2 to 'touch_users' (string expected, got nil)", "touch_users", {} },
      { "bad argument #2 to 'move_user' (string expected, got nil)", "move_user", "alice" },
      { "bad argument #3 to 'move_user' (reason, by or keep expected, got \"kept\")", "move_user", "alice", "a",
        { kept = true } },
      { "bad argument #3 to 'move_user' (keep: boolean expected, got 1)", "move_user", "alice", "a", { keep = 1 } },
      { "bad argument #1 to 'forget_user' (string expected, got nil)", "forget_user" },
      { "bad argument #2 to 'hold_user' (duration from 0 expected, got \"soon\")", "hold_user", "alice", "soon" },
      { "bad argument #1 to 'flush_node' (string expected, got boolean)", "flush_node", true },
      { "bad argument #2 to 'flush_node' (rate: integer 1..1000000 expected, got 0)", "flush_node", "a", { rate = 0 } },
    }) do
      assert.has_error(function() nb[case[2]](case[3], case[4], case[5]) end, case[1])
    end
    assert.are.same({ nil, "unknown node z" }, { nb.move_user("alice", "z") })
    assert.are.same({ nil, "unknown node z" }, { nb.flush_node("z") })
    assert.are.same({ nil, "no key" }, { nb.move_user("", "a") })
  end)

  it("ends a route that is cancelled", function()
    configure("ab", { redis = "redis://127.0.0.1:" .. world:hole().port, timeout = "5s" })
    local route = nb.start_route("alice")
    assert.is_false(route:done())
    assert.are.equal(0, select("#", route:result()))
    route:cancel()
    assert.is_true(route:done())
    assert.are.same({ nil, "cancelled" }, { route:result() })
    assert.is_true(route:wait(0))
  end)

  it("says that the store is unavailable", function()
    configure("ab", { redis = "redis://127.0.0.1:" .. world:closed_port(), timeout = "100ms" })
    for _, name in ipairs({ "touch_users", "move_user", "forget_user", "hold_user", "flush_node" }) do
      local first = name == "touch_users" and { "alice" } or name == "flush_node" and "a" or "alice"
      local second = name == "hold_user" and 1 or "a"
      if name == "flush_node" or name == "forget_user" then
        second = nil
      end
      assert.are.same({ nil, "store unavailable" }, { nb[name](first, second) })
    end
  end)

  it("explains what a login gets without the store", function()
    configure("ab", { timeout = "500ms" })
    engine.eventually("the user is bound", function() return select(2, nb.route(user("alice"))) == "bound" end)
    local node = nb.route(user("alice")).node
    redis:freeze("one")
    finally(function() redis:thaw("one") end)
    for _, name in ipairs({ "alice", "bob" }) do
      local explained = nb.explain_route(user(name))
      local server, how = nb.route(user(name))
      assert.are.same({ server.node, how }, { explained.node, explained.how })
      assert.is_nil(explained.reason)
      assert.are.equal("string", type(explained.problem))
      assert.are.equal(2, #explained.candidates)
    end
    local explained = nb.explain_route(user("alice"))
    assert.are.same({ node, "remembered" }, { explained.node, explained.how })
    configure("ab", { redis = "redis://127.0.0.1:" .. world:closed_port(), on_error = "refuse" })
    assert.are.equal("store unavailable", nb.explain_route(user("alice")).reason)
  end)
end)
