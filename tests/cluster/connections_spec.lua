-- The ways to a real Redis: TLS with its certificates, passwords, a Sentinel with a password, a user with few rights.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")
local redis_servers = require("spec.support.redis")

describe("the connection to the store", function()
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

  -- Configures two nodes and the store `url`. Each test has users and keys of its own, since this machine remembers
  -- users whatever the store is.
  local function configure(url, cluster)
    number = number + 1
    local settings = { redis = url, timeout = "5s", prefix = "connection" .. number }
    for key, value in pairs(cluster or {}) do
      settings[key] = value
    end
    nb.configure(engine.config({
      engine.imap(ports.a.port, { node = "a" }),
      engine.imap(ports.b.port, { node = "b" }),
    }, { connect_timeout = "5s", node_down_after = 0, node_up_after = 0, cluster = settings }))
    assert.is_true(nb.wait_ready(30))
  end

  local function user(name)
    return name .. number .. "@connections.example.org"
  end

  -- A busy machine may need more than one attempt to connect.
  local function assert_binds()
    engine.eventually("a login is bound", function()
      local _, how = nb.route(user("alice"))
      return how == "new" or how == "bound"
    end)
  end

  -- Configures a store that fails; returns the reason of the event that says so. The events of a failure that
  -- goes on are not repeated: so each failure follows a success.
  local function reason_of_failure(url, cluster)
    local reason
    -- On a busy machine the first attempt may fail for that.
    for _ = 1, 10 do
      configure("redis://127.0.0.1:" .. redis:start("plain").port)
      assert_binds()
      local events = nb.events()
      local last = events[#events].seq
      configure(url, cluster)
      assert.are.equal("fallback", (select(2, nb.route(user("alice")))))
      reason = engine.eventually("the event", function()
        for _, event in ipairs(nb.events(last)) do
          if event.type == "cluster" and event.to == "down" then
            return event.reason
          end
        end
      end)
      if reason ~= "no answer in time" then
        break
      end
    end
    return reason
  end

  local function assert_refused(text, url, cluster)
    local reason = reason_of_failure(url, cluster)
    assert.is_truthy(reason:find(text, 1, true), reason)
  end

  it("is made with TLS, and the certificate is verified", function()
    local server = redis:start("tls", { tls = "yes" })
    for _, host in ipairs({ "127.0.0.1", "localhost" }) do
      configure(("rediss://%s:%s"):format(host, server.tls), { tls_ca_file = server.folder .. "/ca.crt" })
      assert_binds()
    end
    assert.is_truthy(redis:cli("tls", "CLIENT", "LIST"):find("cmd=", 1, true))
  end)

  it("is not made with a server whose authority is another one", function()
    local server = redis:start("tls", { tls = "yes" })
    local url = "rediss://127.0.0.1:" .. server.tls
    assert_refused("TLS: certificate refused", url, { tls_ca_file = server.folder .. "/selfsigned.crt" })
    -- The system's authorities do not know the server either.
    assert_refused("TLS: certificate refused", url)
  end)

  it("is not made with a server that has another name or whose certificate has ended", function()
    for _, certificate in ipairs({ "other", "expired" }) do
      local server = redis:start(certificate, { tls = "yes", certificate = certificate })
      assert_refused("TLS: certificate refused", "rediss://127.0.0.1:" .. server.tls,
        { tls_ca_file = server.folder .. "/ca.crt" })
    end
  end)

  it("is not made without TLS to a port with TLS, nor with TLS to one without", function()
    local server = redis:start("tls", { tls = "yes" })
    assert.are.equal("string", type(reason_of_failure("redis://127.0.0.1:" .. server.tls)))
    -- A Redis without TLS takes the handshake for a command, and waits for the end of it.
    assert.are.equal("no answer in time",
      reason_of_failure("rediss://127.0.0.1:" .. server.port, { tls_ca_file = server.folder .. "/ca.crt" }))
  end)

  it("shows a client certificate where the server asks for one", function()
    local server = redis:start("clients", { tls = "clients" })
    local url, files = "rediss://127.0.0.1:" .. server.tls, server.folder
    configure(url, {
      tls_ca_file = files .. "/ca.crt", tls_cert_file = files .. "/good.crt", tls_key_file = files .. "/good.key",
    })
    assert_binds()
    assert.are.equal("string", type(reason_of_failure(url, { tls_ca_file = files .. "/ca.crt" })))
    assert.are.equal("string", type(reason_of_failure(url, {
      tls_ca_file = files .. "/ca.crt", tls_cert_file = files .. "/selfsigned.crt",
      tls_key_file = files .. "/selfsigned.key",
    })))
  end)

  it("gives Sentinel and server each its own password", function()
    redis:start("guarded", { options = "--requirepass|of-server|--masterauth|of-server" })
    local sentinel = redis:sentinel("sentinel",
      { master = "guarded", password = "of-sentinel", master_password = "of-server" })
    local url = ("redis+sentinel://127.0.0.1:%d/mail"):format(sentinel.port)
    local of_server = redis:file("server-password", { text = "of-server\n" }).path
    local of_sentinel = redis:file("sentinel-password", { text = "of-sentinel\n" }).path
    configure(url, { password_file = of_server, sentinel_password_file = of_sentinel })
    assert_binds()
    for _, wrong in ipairs({
      { password_file = of_server },
      { password_file = of_server, sentinel_password_file = of_server },
      { password_file = of_sentinel, sentinel_password_file = of_sentinel },
    }) do
      local reason = reason_of_failure(url, wrong)
      assert.is_nil(reason:find("of-server", 1, true), reason)
      assert.is_nil(reason:find("of-sentinel", 1, true), reason)
    end
  end)

  it("asks the Sentinels in turn, however many are silent, and names those", function()
    redis:start("mastered")
    local hosts = {}
    for index = 1, 3 do
      local name = "silent" .. index
      hosts[index] = "127.0.0.1:" .. redis:relay(name, { to = "mastered" }).port
      redis:pace(name, { mode = "stall" })
    end
    local url = ("redis+sentinel://%s/mail"):format(table.concat(hosts, ","))
    assert_refused("Sentinel " .. hosts[1] .. ": no answer", url)
    hosts[4] = "127.0.0.1:" .. redis:sentinel("fourth", { master = "mastered" }).port
    configure(("redis+sentinel://%s/mail"):format(table.concat(hosts, ",")))
    assert_binds()
  end)

  it("needs no more rights than the documentation gives, whatever is called", function()
    local page = assert(io.open("docs/routing.md"))
    local line = assert(page:read("*a"):match("`ACL (SETUSER [^`]*)`"))
    page:close()
    redis:start("least")
    local words = { "ACL" }
    for word in line:gsub("nauthilus_backend", "connection" .. number + 1):gmatch("%S+") do
      words[#words + 1] = word
    end
    assert.are.equal("OK", redis:cli("least", table.concat(words, "\t")))
    local password = redis:file("least-password", { text = "password" }).path
    configure("redis://127.0.0.1:" .. redis:start("least").port, { username = "proxy", password_file = password })
    assert_binds()
    local node = nb.route(user("alice")).node
    local other = node == "a" and "b" or "a"
    assert.are.equal("bound", nb.explain_route(user("alice")).how)
    assert.are.equal(1, nb.touch_users({ user("alice") }, node))
    assert.is_true((nb.move_user(user("alice"), other, { keep = true })))
    assert.are.equal("pinned", (select(2, nb.route(user("alice")))))
    assert.is_true((nb.hold_user(user("alice"), "1h")))
    assert.is_true((nb.hold_user(user("alice"), 0)))
    assert.is_true((nb.forget_user(user("alice"))))
    assert.are.equal("moved", (select(2, nb.route(user("alice")))))
    nb.move_user(user("bob"), "b")
    assert.is_true(nb.flush_node("b", { rate = 1000 }))
    engine.eventually("bob is released", function() return nb.explain_route(user("bob")).how ~= "bound" end)
    nb.set_target_state("node:a", "drain")
    engine.eventually("the setting is in the store", function()
      return redis:cli("least", "KEYS", "*:settings") ~= ""
    end)
    nb.set_target_state("node:a", "auto")
    engine.eventually("users are counted", function()
      for _, one in ipairs(nb.nodes()) do
        if not one.users then
          return false
        end
      end
      return true
    end)
    assert.are.same({}, nb.status().warnings)
    assert.are.equal("", (redis:cli("least", "ACL", "LOG")))
    -- The keys of another prefix are not this user's.
    local url = "redis://127.0.0.1:" .. redis:start("least").port
    local reason = reason_of_failure(url, { username = "proxy", password_file = password })
    assert.is_truthy(reason:find("NOPERM", 1, true) or reason:find("permission", 1, true), reason)
  end)
end)
