-- check_backend_connection in its three shapes, and start_check.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")

describe("check_backend_connection", function()
  local nb, world, plain, tls, proxied, tls_proxied, refused

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    plain = world:open()
    tls = world:open({ tls = "good" })
    proxied = world:open({ proxy = "v2" })
    tls_proxied = world:open({ proxy = "v2", tls = "good" })
    refused = world:closed_port()
    nb.configure(engine.config({}))
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  local function trusting(more)
    local options = { tls_ca_file = world:certificate("ca.crt") }
    for key, value in pairs(more or {}) do
      options[key] = value
    end
    return options
  end

  describe("with four arguments", function()
    it("returns nil for a server that accepts", function()
      assert.is_nil(nb.check_backend_connection("127.0.0.1", plain.port, false, false))
    end)

    it("returns nothing but that nil", function()
      assert.are.equal(1, select("#", nb.check_backend_connection("127.0.0.1", plain.port, false, false)))
    end)

    it("returns the reason as one line of text", function()
      local reason = nb.check_backend_connection("127.0.0.1", refused, false, false)
      assert.are.equal("string", type(reason))
      assert.matches("^connect: ", reason)
      assert.is_nil(reason:find("[\r\n]"))
    end)

    it("sends the PROXY header before TLS, and verifies the certificate", function()
      assert.is_nil(nb.check_backend_connection("127.0.0.1", tls_proxied.port, true, true, trusting()))
      tls_proxied:await("handshakes", 1)
      assert.are.equal(1, tls_proxied:stats().proxied)
    end)

    it("sends sixteen bytes of PROXY header: LOCAL, without addresses", function()
      assert.is_nil(nb.check_backend_connection("127.0.0.1", proxied.port, true, false))
      proxied:await("proxied", 1)
      assert.are.equal("0d0a0d0a000d0a515549540a20000000", proxied:stats().proxy_header)
    end)

    it("does not trust an authority that nobody named", function()
      assert.matches("^tls: ", nb.check_backend_connection("127.0.0.1", tls.port, false, true))
    end)

    it("trusts anything when told to", function()
      assert.is_nil(nb.check_backend_connection("127.0.0.1", tls.port, false, true, { tls_skip_verify = true }))
    end)

    it("verifies the name that the options give", function()
      assert.is_nil(nb.check_backend_connection("127.0.0.1", tls.port, false, true,
        trusting({ tls_server_name = "localhost" })))
      assert.matches("^tls: .*other%.example%.org", nb.check_backend_connection("127.0.0.1", tls.port, false, true,
        trusting({ tls_server_name = "other.example.org" })))
    end)

    it("takes a name, with or without a trailing dot", function()
      assert.is_nil(nb.check_backend_connection("localhost", tls.port, false, true, trusting()))
      assert.is_nil(nb.check_backend_connection("localhost.", tls.port, false, true, trusting()))
      -- An IPv4 address in the form of IPv6 is that IPv4 address, for source_address as well.
      local mapped = "::ffff:127.0.0.1"
      assert.is_nil(nb.check_backend_connection(mapped, tls.port, false, true, trusting()))
      local from = trusting({ source_address = "127.0.0.1" })
      assert.is_nil(nb.check_backend_connection(mapped, tls.port, false, true, from))
      from = trusting({ source_address = mapped })
      assert.is_nil(nb.check_backend_connection("127.0.0.1", tls.port, false, true, from))
    end)

    it("uses a configured target's own TLS settings for its address", function()
      nb.configure(engine.config({
        engine.imap(tls.port, { tls = true, tls_ca_file = world:certificate("ca.crt") }),
      }))
      assert.is_nil(nb.check_backend_connection("127.0.0.1", tls.port, false, true))
      nb.configure(engine.config({}))
      assert.matches("^tls: ", nb.check_backend_connection("127.0.0.1", tls.port, false, true))
    end)
  end)

  describe("with options", function()
    local skipping = { tls = true, tls_skip_verify = true }

    it("takes from them what an argument leaves out", function()
      assert.is_nil(nb.check_backend_connection("127.0.0.1", tls.port, nil, nil, skipping))
      assert.matches("^tls: ", nb.check_backend_connection("127.0.0.1", plain.port, nil, nil, skipping))
      local before = proxied:stats().proxied
      assert.is_nil(nb.check_backend_connection("127.0.0.1", proxied.port, nil, nil, { haproxy_v2 = true }))
      proxied:await("proxied", before + 1)
      local check = nb.start_check("127.0.0.1", plain.port, nil, nil, skipping)
      assert.is_true(check:wait(60))
      assert.matches("^tls: ", check:result())
    end)

    it("leaves TLS to the configured server where neither says anything", function()
      nb.configure(engine.config({ engine.imap(plain.port, { tls = true }) }))
      assert.matches("^tls: ", nb.check_backend_connection("127.0.0.1", plain.port))
      assert.matches("^tls: ", nb.check_backend_connection("127.0.0.1", plain.port, nil, nil, {}))
      assert.is_nil(nb.check_backend_connection("127.0.0.1", plain.port, false, false))
      assert.is_nil(nb.check_backend_connection("127.0.0.1", plain.port, nil, nil, { tls = false }))
      local check = nb.start_check("127.0.0.1", plain.port)
      assert.is_true(check:wait(60))
      assert.matches("^tls: ", check:result())
      nb.configure(engine.config({}))
      assert.is_nil(nb.check_backend_connection("127.0.0.1", plain.port))
    end)

    it("takes those that say the same as an argument", function()
      assert.is_nil(nb.check_backend_connection("127.0.0.1", tls.port, false, true, skipping))
      assert.is_nil(nb.check_backend_connection("127.0.0.1", plain.port, false, false,
        { haproxy_v2 = false, tls_mode = "plain", protocol = "imap" }))
    end)
  end)

  describe("with a table", function()
    it("takes a target's keys, and host by each of its names", function()
      for _, name in ipairs({ "host", "ip", "ip_address" }) do
        assert.is_nil(nb.check_backend_connection({ [name] = "127.0.0.1", port = plain.port, protocol = "imap" }))
        assert.matches("^connect: ", nb.check_backend_connection({
          [name] = "127.0.0.1", port = refused, protocol = "imap",
        }))
      end
    end)

    it("takes a server object as it was listed", function()
      nb.configure(engine.config({ engine.imap(plain.port) }))
      assert.is_nil(nb.check_backend_connection(nb.get_backend_servers()[1]))
    end)

    it("raises without a host rather than check another server", function()
      for _, target in ipairs({ {}, { port = plain.port }, { hostname = "127.0.0.1", port = plain.port } }) do
        local ok, err = pcall(nb.check_backend_connection, target)
        assert.is_false(ok)
        assert.are.equal("string", type(err))
        assert.matches("host", err)
      end
    end)
  end)

  describe("without arguments", function()
    it("returns a table whose check says true, or nil and the reason", function()
      local checker = nb.check_backend_connection()
      assert.are.same({ true }, { checker.check({ host = "127.0.0.1", port = plain.port, protocol = "imap" }) })
      local ok, reason = checker.check({ host = "127.0.0.1", port = refused, protocol = "imap" })
      assert.is_nil(ok)
      assert.matches("^connect: ", reason)
    end)
  end)

  describe("called wrongly", function()
    local wrong = {
      { "a missing port", { "127.0.0.1" }, "#2" },
      { "port 0", { "127.0.0.1", 0, false, false }, "#2" },
      { "a port past 65535", { "127.0.0.1", 70000, false, false }, "70000" },
      { "a fraction of a port", { "127.0.0.1", 993.5, false, false }, "#2" },
      { "a host that is no string", { {}, 993, false, false, {} }, "" },
      { "an empty host", { "", 993, false, false }, "#1" },
      { "a host with a line break", { "127.0.0.1\r\n", 993, false, false }, "#1" },
      { "haproxy_v2 as a string", { "127.0.0.1", 993, "yes", false }, "#3" },
      { "tls as a string", { "127.0.0.1", 993, false, "yes" }, "#4" },
      { "options as a string", { "127.0.0.1", 993, false, false, "x" }, "#5" },
      { "a host among the options", { "127.0.0.1", 993, false, false, { host = "127.0.0.1" } }, "#5" },
      { "an address among the options", { "127.0.0.1", 993, nil, nil, { ip_address = "::1" } }, "ip_address" },
      { "a port among the options", { "127.0.0.1", 993, false, false, { port = 993 } }, "#5" },
      { "an option against tls", { "127.0.0.1", 993, false, false, { tls = true } }, "contradicts argument #4" },
      { "an option against haproxy_v2", { "127.0.0.1", 993, true, nil, { haproxy_v2 = false } }, "argument #3" },
      { "a mode against tls", { "127.0.0.1", 993, false, false, { tls_mode = "implicit" } }, "contradicts tls_mode" },
      { "an unknown option", { "127.0.0.1", 993, false, false, { tls_skip_verfy = true } }, "tls_skip_verify" },
    }
    for _, case in ipairs(wrong) do
      it("raises a string at the caller's line for " .. case[1], function()
        local arguments = case[2]
        local ok, err = pcall(function()
          nb.check_backend_connection(arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
        end)
        assert.is_false(ok)
        assert.are.equal("string", type(err))
        assert.matches("^[^\n]*check_spec%.lua:%d+: ", err)
        assert.matches(case[3], err, 1, true)
      end)
    end
  end)

  it("takes ports as Lua coerces them", function()
    assert.is_nil(nb.check_backend_connection("127.0.0.1", tostring(plain.port), false, false))
    assert.is_nil(nb.check_backend_connection("127.0.0.1", plain.port + 0.0, false, false))
  end)

  describe("start_check", function()
    it("is done at once or later, with the same answers", function()
      local good = nb.start_check("127.0.0.1", plain.port, false, false)
      local bad = nb.start_check("127.0.0.1", refused, false, false)
      assert.is_true(good:wait(60))
      assert.is_true(bad:wait(60))
      assert.is_true(good:done())
      assert.is_nil(good:result())
      assert.matches("^connect: ", bad:result())
    end)

    it("does not wait", function()
      local hole = world:hole()
      local check
      engine.promptly(0.2, function()
        check = nb.start_check("127.0.0.1", hole.port, false, false, { connect_timeout = "30s" })
      end)
      assert.is_false(check:done())
      local ok, why = check:wait(0.05)
      assert.is_nil(ok)
      assert.are.equal("timeout", why)
      check:cancel()
    end)

    it("has a descriptor that becomes readable when it is done", function()
      local check = nb.start_check("127.0.0.1", refused, false, false)
      local fd = check:fd()
      assert.are.equal("number", type(fd))
      local pollable = { getfd = function() return fd end, dirty = function() return false end }
      local ready = require("socket").select({ pollable }, nil, 60)
      assert.are.equal(pollable, ready[1])
      assert.is_true(check:done())
    end)

    it("gives its descriptors back", function()
      local lfs = require("lfs")
      local function descriptors()
        local count = 0
        for _ in lfs.dir("/proc/self/fd") do
          count = count + 1
        end
        return count
      end
      local function some_checks()
        for _ = 1, 50 do
          local check = nb.start_check("127.0.0.1", refused, false, false)
          check:fd()
          check:wait(60)
        end
        collectgarbage()
        collectgarbage()
      end
      some_checks()
      local before = descriptors()
      some_checks()
      engine.eventually("no more descriptors than before", function()
        return descriptors() <= before
      end)
    end)

    it("can be cancelled, before and after it is done", function()
      local hole = world:hole()
      local check = nb.start_check("127.0.0.1", hole.port, false, false, { connect_timeout = "30s" })
      check:cancel()
      assert.is_true(check:wait(60))
      assert.are.equal("string", type(check:result()))
      local finished = nb.start_check("127.0.0.1", plain.port, false, false)
      finished:wait(60)
      finished:cancel()
      assert.is_nil(finished:result())
    end)
  end)
end)
