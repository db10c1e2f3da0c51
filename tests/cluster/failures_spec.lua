-- Every failure of a real store: what route answers, how long it takes, and that bindings are obeyed again.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")
local redis_servers = require("spec.support.redis")
local socket = require("socket")

local TIMEOUT = 0.1

-- A script that the machine is too busy to run on time is no fault of the module: the same wait without a
-- store, measured in this run, is what a login may take beside the timeout.
local function allowance()
  local longest = 0
  for _ = 1, 20 do
    local started = socket.gettime()
    socket.select(nil, nil, 0.01)
    longest = math.max(longest, socket.gettime() - started - 0.01)
  end
  return 0.1 + 5 * longest
end

describe("while the store fails", function()
  local nb, world, redis, ports
  local number = 0

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world, redis = peers.new(), redis_servers.new()
    ports = { a = world:open(), b = world:open() }
  end)

  lazy_teardown(function()
    nb.stop()
    -- First: it was started later, and so inherited the other one's channel.
    redis:quit()
    world:stop()
  end)

  -- Configures two nodes and the store. Each test has users and keys of its own, since this machine remembers users
  -- whatever the store is.
  local function configure(url, cluster)
    number = number + 1
    local settings = { redis = url, timeout = TIMEOUT, prefix = "test" .. number }
    for key, value in pairs(cluster or {}) do
      settings[key] = value
    end
    nb.configure(engine.config({
      engine.imap(ports.a.port, { node = "a" }),
      engine.imap(ports.b.port, { node = "b" }),
    }, {
      -- A node must not be found dead because the machine is busy.
      connect_timeout = "5s", node_down_after = 0, node_up_after = 0, cluster = settings,
    }))
    assert.is_true(nb.wait_ready(30))
    return "{test" .. number .. "}:user:*"
  end

  local function user(name)
    return name .. number .. "@failures.example.org"
  end

  local function how_of(name)
    return (select(2, nb.route(user(name))))
  end

  local function await(how, name, timeout)
    return engine.eventually(how .. " for " .. name, function() return how_of(name) == how end, timeout or 60)
  end

  -- The first answer that comes in time may be to the second login: the one before has bound the user.
  local function await_binding(name)
    engine.eventually("the store answers", function()
      local how = how_of(name)
      return how == "new" or how == "bound"
    end)
  end

  -- Logs a user in, which binds the user, and returns the node.
  local function bind(name)
    await_binding(name)
    return nb.route(user(name)).node
  end

  -- Logins while the store fails: the bound user stays, nobody waits longer than the timeout, and after
  -- the first nobody waits at all.
  local function check_outage(node)
    local limit = TIMEOUT + allowance()
    local function login()
      local server, how = nb.route(user("alice"))
      assert.are.same({ node, "remembered" }, { server.node, how })
    end
    -- Only the first login waits for the store, and it can be tried only once: hence 4 s for a machine
    -- that stands still meanwhile. Without the timeout it would wait for the end of the failure, 10 s or more.
    local started = socket.gettime()
    login()
    local took = socket.gettime() - started
    assert.is_true(took < limit + 4, ("the first login took %.3f s of %.3f"):format(took, limit))
    for index = 1, 5 do
      engine.promptly(limit, login)
      engine.promptly(limit, function()
        assert.are.equal("fallback", how_of("stranger" .. index))
      end)
    end
  end

  local function url_of(port)
    return "redis://127.0.0.1:" .. port
  end

  it("killed and restarted empty: it is filled again from memory", function()
    local server = redis:start("one")
    local keys = configure(url_of(server.port))
    local node = bind("alice")
    redis:kill("one")
    check_outage(node)
    redis:start("one")
    await("bound", "alice")
    assert.are.equal(node, redis:cli("one", "HGET", redis:cli("one", "KEYS", keys), "node"))
  end)

  it("killed and restarted with its data", function()
    local server = redis:start("two", { options = "--appendonly|yes|--appendfsync|always" })
    local keys = configure(url_of(server.port))
    local node = bind("alice")
    local key = redis:cli("two", "KEYS", keys)
    local generation = redis:cli("two", "HGET", key, "generation")
    redis:kill("two")
    check_outage(node)
    redis:start("two", { options = "--appendonly|yes|--appendfsync|always" })
    await("bound", "alice")
    assert.are.equal(generation, redis:cli("two", "HGET", key, "generation"))
  end)

  it("restarted while bindings are released: none is left out", function()
    local options = { options = "--appendonly|yes|--appendfsync|always" }
    local server = redis:start("flushed", options)
    local keys = configure(url_of(server.port), { timeout = 1 })
    await_binding("alice")
    redis:cli("flushed", "EVAL", [[
      local ends = redis.call("TIME")[1] * 1000 + 3600000
      for index = 1, 3000 do
        redis.call("HSET", (string.gsub(KEYS[1], "%*", redis.sha1hex(index))), "node", "a", "until",
          string.format("%.0f", ends), "generation", 1)
      end]], "1", keys)
    local function left()
      local count = redis:cli("flushed", "EVAL", [[
        local count = 0
        for _, key in ipairs(redis.call("KEYS", KEYS[1])) do
          count = count + (redis.call("HGET", key, "node") == "a" and 1 or 0)
        end
        return count]], "1", keys)
      return tonumber(count:match("%d+"))
    end
    assert.is_true(nb.flush_node("a", { rate = 500 }))
    -- A step of the release reads some 500 keys: the cursor has gone on when half of the bindings are released.
    engine.eventually("some are released", function() return left() < 1500 end)
    redis:kill("flushed")
    redis:start("flushed", options)
    -- While Redis loads its data it answers with an error.
    assert.is_true(engine.eventually("the data are loaded", left) > 0, "the release has ended before the restart")
    engine.eventually("all are released", function() return left() == 0 end, 60)
  end)

  it("paused by CLIENT PAUSE", function()
    configure(url_of(redis:start("one").port))
    local node = bind("alice")
    redis:cli("one", "CLIENT", "PAUSE", "10000", "ALL")
    check_outage(node)
    await("bound", "alice")
  end)

  it("frozen: what arrives too late writes nothing", function()
    local keys = configure(url_of(redis:start("one").port))
    local node = bind("alice")
    redis:freeze("one")
    check_outage(node)
    redis:thaw("one")
    await("bound", "alice")
    assert.is_nil(redis:cli("one", "KEYS", keys):find("\n"), "the strangers' logins wrote nothing")
  end)

  local function sha256(text)
    local pipe = assert(io.popen("printf %s '" .. text .. "' | sha256sum"))
    local digest = pipe:read("a"):match("^%x+")
    pipe:close()
    return digest
  end

  it("without memory: bindings are obeyed, and it does not count as failing", function()
    local server = redis:start("small")
    local keys = configure(url_of(server.port), { timeout = 5 })
    local node = bind("alice")
    -- A user whom another machine has bound, to the node that hashing does not give: this one does not remember it.
    local other = nb.explain_route(user("zed")).candidates[2].node
    local now = os.time() * 1000
    redis:cli("small", "HSET", (keys:gsub("%*", sha256(user("zed")))), "node", other, "since", now, "until",
      now + 3600000, "reason", "login", "by", "another machine", "generation", now * 1000)
    redis:cli("small", "CONFIG", "SET", "maxmemory", "1")
    local events = nb.events()
    local last = events[#events].seq
    for _ = 1, 3 do
      assert.are.same({ node, "bound" }, { nb.route(user("alice")).node, how_of("alice") })
      assert.are.equal("fallback", how_of("stranger"))
      assert.are.same({ other, "bound" }, { nb.route(user("zed")).node, how_of("zed") })
      assert.is_nil(nb.move_user(user("alice"), other))
    end
    -- This machine stays registered: what an operator sets is sent with the registration.
    nb.set_node_weight("a", 7)
    finally(function() nb.set_node_weight("a", nil) end)
    engine.eventually("a registration", function()
      return redis:cli("small", "HGET", (keys:gsub("user:%*", "store:settings")), "weight:node:a"):find("7", 1, true)
    end)
    redis:cli("small", "CONFIG", "SET", "maxmemory", "0")
    assert.are.equal("new", how_of("stranger"))
    for _, event in ipairs(nb.events(last)) do
      assert.are_not.equal("cluster", event.type, event.reason)
    end
  end)

  it("evicting keys: it is warned of, and what is lost is written again", function()
    local server = redis:start("evicting", { options = "--maxmemory-policy|allkeys-lru" })
    local keys = configure(url_of(server.port), { timeout = 5 })
    local node = bind("alice")
    engine.eventually("the warning", function()
      return table.concat(nb.status().warnings, "\n"):find("maxmemory-policy allkeys-lru", 1, true)
    end)
    redis:cli("evicting", "DEL", redis:cli("evicting", "KEYS", keys))
    assert.are.same({ node, "bound" }, { nb.route(user("alice")).node, how_of("alice") })
  end)

  it("with a wrong password", function()
    local server = redis:start("locked", { options = "--requirepass|right" })
    local wrong = redis:file("wrong", { text = "wrong" }).path
    configure(url_of(server.port), { password_file = wrong })
    await("fallback", "alice")
    local right = redis:file("right", { text = "right" }).path
    configure(url_of(server.port), { password_file = right })
    await_binding("alice")
  end)

  it("without a right on the script", function()
    local server = redis:start("acl")
    redis:cli("acl", "ACL", "SETUSER", "proxy", "on", ">secret", "~*", "+@all", "-eval", "-evalsha")
    local password = redis:file("proxy", { text = "secret" }).path
    configure(url_of(server.port), { username = "proxy", password_file = password })
    await("fallback", "alice")
    redis:cli("acl", "ACL", "SETUSER", "proxy", "+eval", "+evalsha")
    await_binding("alice")
  end)

  it("with the rights of the documentation", function()
    local page = assert(io.open("docs/routing.md"))
    local line = assert(page:read("*a"):match("`ACL (SETUSER [^`]*)`"))
    page:close()
    local server = redis:start("least")
    local words = { "ACL" }
    for word in line:gsub("nauthilus_backend", "test" .. number + 1):gmatch("%S+") do
      words[#words + 1] = word
    end
    assert.are.equal("OK", redis:cli("least", table.concat(words, "\t")))
    local password = redis:file("least-password", { text = "password" }).path
    configure(url_of(server.port), { username = "proxy", password_file = password, timeout = 5 })
    await_binding("alice")
    assert.are.equal("bound", how_of("alice"))
    assert.are.same({}, nb.status().warnings)
  end)

  it("behind a relay that stops reading", function()
    redis:start("one")
    local relay = redis:relay("relay", { to = "one" })
    configure(url_of(relay.port))
    local node = bind("alice")
    redis:pace("relay", { mode = "stall" })
    check_outage(node)
    redis:pace("relay", { mode = "pass" })
    await("bound", "alice")
  end)

  it("with more delay than the timeout", function()
    redis:start("one")
    local relay = redis:relay("slow", { to = "one" })
    configure(url_of(relay.port))
    local node = bind("alice")
    -- So much that no answer is there in time, also where the machine stands still in between.
    redis:pace("slow", { mode = "2" })
    check_outage(node)
    redis:pace("slow", { mode = "pass" })
    await("bound", "alice")
  end)

  it("failed over by a Sentinel", function()
    local first, second = redis:start("first"), redis:start("second")
    redis:cli("second", "REPLICAOF", "127.0.0.1", tostring(first.port))
    local sentinel = redis:sentinel("sentinel", { master = "first" })
    configure(("redis+sentinel://127.0.0.1:%d/mail"):format(sentinel.port))
    local node = bind("alice")
    engine.eventually("the replica has it", function()
      return redis:cli("second", "INFO", "replication"):find("master_link_status:up", 1, true)
        and redis:cli("sentinel", "SENTINEL", "REPLICAS", "mail"):find(tostring(second.port), 1, true)
    end, 60)
    redis:kill("first")
    check_outage(node)
    await("bound", "alice", 60)
    assert.are.equal(node, nb.route(user("alice")).node)
    assert.is_truthy(redis:cli("second", "ROLE"):find("^master"))
  end)

  it("with on_error hash and refuse", function()
    local port = world:closed_port()
    configure(url_of(port), { on_error = "hash" })
    await("fallback", "alice")
    configure(url_of(port), { on_error = "refuse" })
    assert.are.same({ nil, "store unavailable" }, { nb.route(user("alice")) })
  end)

  -- How long it takes from now until a binding counts again, in seconds.
  local function time_until_obeyed()
    local started = socket.gettime()
    await("bound", "alice", 60)
    return socket.gettime() - started
  end

  -- One of five attempts has to be in time: a busy machine delays a single one, and may answer after the
  -- timeout.
  local function assert_obeyed_within_2_s(break_it, mend_it)
    local shortest, limit = math.huge, 2 + allowance()
    for _ = 1, 5 do
      break_it()
      await("remembered", "alice")
      mend_it()
      shortest = math.min(shortest, time_until_obeyed())
      if shortest < limit then
        return
      end
    end
    error(("obeyed again after %.1f s, at the least"):format(shortest))
  end

  it("bindings are obeyed again within 2 s of its return", function()
    configure(url_of(redis:start("one").port))
    bind("alice")
    assert_obeyed_within_2_s(function() redis:freeze("one") end, function() redis:thaw("one") end)
    assert_obeyed_within_2_s(function() redis:kill("one") end, function() redis:start("one") end)
    local relay = redis:relay("stalled", { to = "one" })
    configure(url_of(relay.port))
    bind("alice")
    assert_obeyed_within_2_s(function() redis:pace("stalled", { mode = "stall" }) end,
      function() redis:pace("stalled", { mode = "pass" }) end)
  end)

  it("asks it once a second, and no login waits for that", function()
    redis:start("one")
    local relay = redis:relay("counting", { to = "one" })
    configure(url_of(relay.port), { timeout = 1 })
    local node = bind("alice")
    redis:pace("counting", { mode = "stall" })
    await("remembered", "alice")
    local started = socket.gettime()
    local before = tonumber(redis:connections("counting").count)
    local logins, slow = 0, 0
    repeat
      local began = socket.gettime()
      local server, how = nb.route(user("alice"))
      assert.are.same({ node, "remembered" }, { server and server.node, how })
      logins, slow = logins + 1, slow + (socket.gettime() - began > 0.5 and 1 or 0)
      socket.select(nil, nil, 0.001)
    until socket.gettime() - started > 5
    local asked = tonumber(redis:connections("counting").count) - before
    local elapsed = socket.gettime() - started
    redis:pace("counting", { mode = "pass" })
    -- A busy machine may delay an attempt, and never makes more of them.
    assert.is_true(asked >= 1 and asked <= elapsed + 1, asked .. " attempts in " .. elapsed .. " s")
    -- An attempt takes 0.9 s: a login that waited for one would show, and there would be no more than one beside it.
    assert.is_true(logins > 50 and slow <= asked / 2, ("%d of %d logins were slow"):format(slow, logins))
    await("bound", "alice")
  end)

  it("fills an emptied store with all that the machine remembers", function()
    redis:start("one")
    local keys = configure(url_of(redis:start("one").port), { timeout = 5 })
    local nodes, pinned = {}, user("pinned")
    for index = 1, 50 do
      nodes[index] = nb.route(user("user" .. index)).node
    end
    nb.move_user(pinned, "b", { keep = true })
    -- The user was moved by an operator: hashing would choose another node.
    nodes[1] = nodes[1] == "a" and "b" or "a"
    nb.move_user(user("user1"), nodes[1])
    nb.hold_user(user("held"), "1h")
    redis:kill("one")
    redis:start("one")
    engine.eventually("the store answers", function() return how_of("user2") == "bound" end)
    for index = 1, 50 do
      assert.are.same({ nodes[index], "bound" }, { nb.route(user("user" .. index)).node, how_of("user" .. index) })
    end
    assert.are.same({ "b", "pinned" }, { nb.route(pinned).node, how_of("pinned") })
    assert.are.same({ nil, "held" }, { nb.route(user("held")) })
    local _, count = redis:cli("one", "KEYS", keys):gsub("user:", "")
    assert.are.equal(52, count)
  end)

  it("tells when it failed and when it answers again, once", function()
    local _, events = nil, nb.events()
    local last = events[#events].seq
    configure(url_of(redis:start("one").port))
    bind("alice")
    redis:freeze("one")
    -- The login no longer waits, and may have its answer before the engine has noticed.
    engine.eventually("the failure is told", function()
      nb.route(user("alice"))
      local told = nb.events(last)
      return #told > 0 and told[#told].to == "down"
    end)
    redis:thaw("one")
    await("bound", "alice")
    -- The event follows the first answer. A machine too busy to answer in time has more pairs of them.
    engine.eventually("both are told, in turns", function()
      local told = {}
      for _, event in ipairs(nb.events(last)) do
        if event.type == "cluster" then
          told[#told + 1] = (event.from or "") .. ">" .. (event.to or "")
        end
      end
      return table.concat(told, " "):match("up>down down>up$")
    end)
  end)
end)
