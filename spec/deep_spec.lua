-- Deep checks as a user sees them: through the engine's verdicts, and on demand.

local engine = require("spec.support.engine")
local peers = require("spec.support.peers")
local Dovecot = require("spec.support.dovecot")
local interpreter = require("spec.support.interpreter")

describe("a deep check", function()
  local nb, world, ca

  local USER, PASSWORD = "probe", "Zq7-Wv9-Xk2"
  -- "\0probe\0Zq7-Wv9-Xk2"
  local PLAIN = "AHByb2JlAFpxNy1XdjktWGsy"

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    ca = world:certificate("ca.crt")
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  local function merged(first, second)
    local all = {}
    for _, some in ipairs({ first, second or {} }) do
      for key, value in pairs(some) do
        all[key] = value
      end
    end
    return all
  end

  local function script(lines)
    return table.concat(lines, "\n")
  end

  local GREETING = "send * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR LOGINDISABLED] ready\\r\\n"

  -- An IMAP server that accepts our login, and whose script ends with our LOGOUT.
  local WILLING = script {
    GREETING,
    "expect ^a1 AUTHENTICATE PLAIN " .. PLAIN,
    "send a1 OK logged in\\r\\n",
    "expect LOGOUT",
    "close",
  }
  -- An IMAP server that refuses the login, and repeats the user, the password and both encoded in its answer:
  -- none may get into a reason.
  local UNWILLING = script {
    GREETING,
    "expect ^a1 AUTHENTICATE PLAIN",
    "send a1 NO [AUTHENTICATIONFAILED] " .. USER .. " " .. PASSWORD .. " " .. PLAIN .. " is wrong\\r\\n",
  }
  local STARTTLS = script {
    "send * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] ready\\r\\n",
    "expect ^a1 STARTTLS",
    "send a1 OK begin\\r\\n",
    "starttls soon",
    "expect ^a2 CAPABILITY",
    "send * CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\\r\\na2 OK done\\r\\n",
    "expect ^a3 AUTHENTICATE PLAIN " .. PLAIN,
    "send a3 OK logged in\\r\\n",
    "expect LOGOUT",
    "close",
  }

  -- What the reason ends with where a server sends nothing at all.
  local NO_HEADER = "; if the listener expects the PROXY header, set haproxy_v2"

  local LOGIN = { deep_check = true, test_username = USER, test_password = PASSWORD }

  local function deep(server, overrides)
    return engine.imap(server.port, merged(LOGIN, overrides))
  end

  local function configure(targets, overrides)
    nb.configure(engine.config(targets, merged({ deep_timeout = "5s" }, overrides)))
  end

  local function read_all(path)
    local file = io.open(path)
    local text = file and file:read("*a") or ""
    if file then
      file:close()
    end
    return text
  end

  local function count(text, piece)
    local _, times = text:gsub(piece, "")
    return times
  end

  local function assert_no_secret(value)
    local text = engine.all_text(value)
    assert.is_nil(text:find(PASSWORD, 1, true), text)
    assert.is_nil(text:find(PLAIN, 1, true), text)
  end

  describe("in the engine", function()
    it("logs in, says goodbye, and is good", function()
      local server = world:open({ script = WILLING })
      configure({ deep(server) })
      assert.is_true(nb.wait_ready(60))
      local target = engine.target(nb, server.port)
      assert.are.equal("alive", target.verdict, target.last_error)
      assert.is_nil(target.last_error)
      server:await("played", 1)
    end)

    it("finds a server dead that answers the phone and says nothing", function()
      local server = world:open()
      configure({ engine.imap(server.port, { deep_check = true, deep_timeout = "200ms" }) })
      assert.is_true(nb.wait_ready(60))
      local target = engine.target(nb, server.port)
      assert.are.equal("dead", target.verdict)
      assert.are.equal("greeting: timed out after 200ms" .. NO_HEADER, target.last_error)
      assert.are.same({}, engine.ports(nb))
      assert.is_nil(nb.check_backend_connection("127.0.0.1", server.port, false, false))
    end)

    it("finds a server dead that turns us away, with its own words", function()
      local server = world:open({ script = "send * BYE closed for today\\r\\n" })
      configure({ engine.imap(server.port, { deep_check = true }) })
      assert.is_true(nb.wait_ready(60))
      local target = engine.target(nb, server.port)
      assert.are.equal("dead", target.verdict)
      assert.matches("^greeting: refused: .*BYE closed for today", target.last_error)
    end)

    it("finds a server dead that refuses the login, and shows the password nowhere", function()
      local log = world:folder() .. "/refused.log"
      local willing = world:open({ script = WILLING })
      local unwilling = world:open({ script = UNWILLING })
      configure({ deep(willing), deep(unwilling) }, { log = log })
      assert.is_true(nb.wait_ready(60))
      local target = engine.target(nb, unwilling.port)
      assert.are.equal("dead", target.verdict)
      assert.matches("^auth: refused: a1 NO %[AUTHENTICATIONFAILED%] probe ", target.last_error)
      assert.are.same({ willing.port }, engine.ports(nb))
      local server = nb.get_backend_servers()[1]
      assert.is_true(server.deep_check)
      assert.is_nil(server.test_username)
      assert.is_nil(server.test_password)
      engine.eventually("the refusal is logged", function()
        return read_all(log):find("event=target_down", 1, true)
      end)
      assert_no_secret({ nb.status(), nb.get_backend_servers(), read_all(log) })
    end)

    it("logs in less and less often with a password that is refused, and keeps the reason", function()
      local unwilling, other = world:open({ script = UNWILLING }), world:open()
      configure({ deep(unwilling), engine.imap(other.port) }, {
        connect_interval = "50ms", fast_interval = "50ms", deep_timeout = "1s",
      })
      engine.await_verdict(nb, unwilling.port, "dead")
      local before = engine.target(nb, other.port).probes
      engine.await_probes(nb, other.port, before + 60)
      -- Probed after 50, 100, 200, 400, 800 and 1,600 ms rather than every 50 ms: at most 12 probes while the
      -- other target has 60.
      assert.is_true(engine.target(nb, unwilling.port).probes <= 12, engine.target(nb, unwilling.port).probes)

      -- The server delays its next answer, as some do after a wrong password. The reason then still names the
      -- refusal. On a busy machine a greeting may come too late, which is the reason then; so it is tried anew.
      local late = script { GREETING, "expect ^a1 AUTHENTICATE PLAIN", "expect NEVER" }
      local function is(pattern)
        return engine.target(nb, unwilling.port).last_error:find("^auth: refused: a1 NO " .. pattern)
      end
      engine.eventually("both are told", function()
        unwilling:play(UNWILLING)
        nb.report_failure("127.0.0.1", unwilling.port)
        engine.eventually("the refusal is told", function() return is("[^;]*$") end)
        unwilling:play(late)
        nb.report_failure("127.0.0.1", unwilling.port)
        engine.eventually("another reason", function() return not is("[^;]*$") end)
        return is(".*; since then timed out after 1s$")
      end, 60)
      -- A server that delays its answer from the first login on: the reason can only suggest a wrong
      -- password.
      local silent = world:open({ script = late })
      assert.are.equal("auth: timed out after 300ms (servers delay the answer to a wrong password)",
        nb.check_backend_connection(deep(silent, { deep_timeout = "300ms" })))
    end)

    it("logs in soon after a refusal for now, also after a reload", function()
      local busy = world:open({ script = script {
        GREETING, "expect ^a1 AUTHENTICATE PLAIN", "send a1 NO [UNAVAILABLE] try again later\\r\\n",
      } })
      configure({ deep(busy) })
      engine.await_probes(nb, busy.port, 12)
      assert.are.equal("dead", engine.target(nb, busy.port).verdict)
      configure({ deep(busy, { weight = 50 }) })
      busy:play(WILLING)
      -- If these refusals counted like those of a password, the next login would be 60 s after the last.
      engine.await_verdict(nb, busy.port, "alive", 30)
    end)

    it("logs in less and less often where other codes than 535 refuse the password", function()
      local unwilling, other = world:open({ script = script {
        "send 220 mx ready\\r\\n", "expect ^EHLO", "send 250-mx\\r\\n250 AUTH PLAIN\\r\\n",
        "expect ^AUTH PLAIN", "send 554 5.7.8 Authentication credentials invalid\\r\\n",
      } }), world:open()
      configure({ deep(unwilling, { protocol = "smtp" }), engine.imap(other.port) })
      engine.await_verdict(nb, unwilling.port, "dead")
      engine.await_probes(nb, other.port, 60)
      -- As above: at most 12 probes while the other target has 60.
      assert.is_true(engine.target(nb, unwilling.port).probes <= 12, engine.target(nb, unwilling.port).probes)
    end)

    -- A POP3 server with this answer to the password, and what it expects and sends after that.
    local function pop3(answer, ...)
      return script {
        "send +OK ready\\r\\n", "expect ^CAPA", "send +OK\\r\\nUSER\\r\\nSASL PLAIN\\r\\n.\\r\\n",
        "expect ^USER probe", "send +OK\\r\\n", "expect ^PASS " .. PASSWORD, "send " .. answer .. "\\r\\n", ...
      }
    end

    -- While the target is alive it is probed only for a report; a busy machine has time enough.
    local SELDOM = { connect_interval = "1h", connect_timeout = "20s", deep_timeout = "20s" }

    -- Has the target probed once more, and returns its verdict after that.
    local function verdict_after_probe(server)
      local before = engine.target(nb, server.port).probes
      assert.is_true(nb.report_failure("127.0.0.1", server.port))
      engine.eventually("a probe", function() return engine.target(nb, server.port).probes > before end)
      return engine.target(nb, server.port).verdict
    end

    it("keeps its verdict while a POP3 server wants no login so soon", function()
      local wait = pop3("-ERR [LOGIN-DELAY] wait")
      local server = world:open({ script = pop3("-ERR [AUTH] no") })
      local target = deep(server, { protocol = "pop3" })
      configure({ target }, SELDOM)
      engine.await_verdict(nb, server.port, "dead")
      -- The server may not have looked at the password.
      server:play(wait)
      for _ = 1, 4 do
        assert.are.equal("dead", verdict_after_probe(server))
      end
      assert.are.equal("auth: refused: -ERR [AUTH] no", engine.target(nb, server.port).last_error)
      server:play(pop3("+OK in"))
      verdict_after_probe(server)
      engine.await_verdict(nb, server.port, "alive")
      server:play(wait)
      for _ = 1, 4 do
        assert.are.equal("alive", verdict_after_probe(server))
      end
      assert.are.equal("auth: refused: -ERR [LOGIN-DELAY] wait", nb.check_backend_connection(target))
    end)

    it("takes a maildrop in use for a failure only if it stays so", function()
      local in_use = pop3("-ERR [IN-USE] another session has it")
      local good = pop3("+OK in", "expect ^STAT", "send +OK 0 0\\r\\n", "expect ^QUIT")
      local server = world:open({ script = good })
      local target = deep(server, { protocol = "pop3", test_mailbox = "any" })
      configure({ target }, SELDOM)
      engine.await_verdict(nb, server.port, "alive")
      for _, answers in ipairs({ good, in_use, in_use, good, in_use, in_use }) do
        server:play(answers)
        assert.are.equal("alive", verdict_after_probe(server))
      end
      assert.are.equal("dead", verdict_after_probe(server))
      assert.are.equal("auth: refused: -ERR [IN-USE] another session has it", engine.target(nb, server.port).last_error)
      server:play(good)
      engine.await_verdict(nb, server.port, "alive")
      -- Without the mailbox nothing is asked of the maildrop.
      target.test_mailbox = nil
      server:play(in_use)
      assert.is_nil(nb.check_backend_connection(target))
    end)

    it("takes no verdict on another password from the state file", function()
      local state_file = world:folder() .. "/password"
      local server = world:open({ script = UNWILLING })
      local function configure_with(password, interval)
        configure({ deep(server, { test_password = password, deep_timeout = "20s" }) },
          { state_file = state_file, connect_interval = interval, connect_timeout = "20s" })
      end
      configure_with("wrong", "50ms")
      engine.await_verdict(nb, server.port, "dead")
      engine.eventually("the verdict is saved", function()
        return read_all(state_file):find("verdict=dead", 1, true)
      end)
      server:play(WILLING)
      configure_with(PASSWORD, "50ms")
      local target = engine.target(nb, server.port)
      assert.are_not.equal("dead", target.verdict, target.last_error)
      -- Another change follows, perhaps before the first probe with the new password.
      configure_with(PASSWORD, "60ms")
      target = engine.target(nb, server.port)
      assert.are_not.equal("dead", target.verdict, target.last_error)
      engine.await_verdict(nb, server.port, "alive")
    end)

    it("sends the PROXY header first", function()
      local server = world:open({ proxy = "v2", script = WILLING })
      local under_tls = world:open({ proxy = "v2", tls = "good", script = WILLING })
      configure({
        deep(server, { haproxy_v2 = true }),
        deep(under_tls, { haproxy_v2 = true, tls = true, tls_ca_file = ca }),
      })
      assert.is_true(nb.wait_ready(60))
      assert.are.same({ server.port, under_tls.port }, engine.ports(nb))
      server:await("played", 1)
      under_tls:await("played", 1)
    end)
  end)

  describe("with an interval of its own", function()
    -- An interval so long that no probe is made in it during the test.
    local NEVER = "1h"

    it("is a timer of its own beside that of connect probes", function()
      local server = world:open({ proxy = "v2", script = WILLING })
      configure({ deep(server, { haproxy_v2 = true }) }, {
        connect_interval = NEVER, deep_interval = "2h", fast_interval = "50ms",
      })
      assert.is_true(nb.wait_ready(60))
      assert.are.equal("alive", engine.target(nb, server.port).verdict)
      server:await("played", 1)
      server:await("proxied", 2)
      -- The server has seen the second probe before the engine counts its outcome.
      engine.eventually("two outcomes", function() return engine.target(nb, server.port).probes >= 2 end)
      assert.are.equal(2, engine.target(nb, server.port).probes)
      local stats = server:stats()
      assert.are.same({ 2, 1 }, { stats.proxied, stats.played })
    end)

    it("is combined with the connect probe where the intervals are equal", function()
      local server = world:open({ proxy = "v2", script = WILLING })
      configure({ deep(server, { haproxy_v2 = true }) }, {
        connect_interval = NEVER, deep_interval = NEVER, fast_interval = "50ms",
      })
      assert.is_true(nb.wait_ready(60))
      assert.are.equal("alive", engine.target(nb, server.port).verdict)
      server:await("played", 1)
      assert.are.equal(1, engine.target(nb, server.port).probes)
      local stats = server:stats()
      assert.are.same({ 1, 1 }, { stats.proxied, stats.played })
    end)

    it("keeps its pace: many connect probes, few deep ones", function()
      local server = world:open({ proxy = "v2", script = WILLING })
      configure({ deep(server, { haproxy_v2 = true }) }, { connect_interval = "20ms", deep_interval = NEVER })
      server:await("proxied", 10)
      assert.is_true(nb.wait_ready(60))
      server:await("played", 1)
      assert.are.equal(1, server:stats().played)
    end)

    it("makes a target dead although it connects, and its reason stays", function()
      local server = world:open()
      configure({ engine.imap(server.port, { deep_check = true, deep_timeout = "200ms" }) }, {
        deep_interval = NEVER, fast_interval = NEVER,
      })
      engine.await_verdict(nb, server.port, "dead")
      engine.await_probes(nb, server.port, 5)
      local target = engine.target(nb, server.port)
      assert.are.equal("dead", target.verdict)
      assert.are.equal("greeting: timed out after 200ms" .. NO_HEADER, target.last_error)
      assert.are.same({}, engine.ports(nb))
    end)

    it("takes a report for one probe of each timer where it connects and says nothing", function()
      local silent, other = world:open(), world:open()
      configure({ engine.imap(silent.port, { deep_check = true, deep_timeout = "100ms" }), engine.imap(other.port) }, {
        connect_interval = "50ms", deep_interval = NEVER, fast_interval = NEVER,
      })
      engine.await_verdict(nb, silent.port, "dead")
      assert.is_true(nb.report_failure("127.0.0.1", silent.port))
      local before = engine.target(nb, silent.port).probes
      engine.await_probes(nb, other.port, 10)
      -- Only a timer with its own interval of 50 ms may be due: the dead target must not be probed again and
      -- again in between.
      assert.is_true(engine.target(nb, silent.port).probes - before < 100)
    end)

    it("leaves a target dead until it is good itself, however well it connects", function()
      local server = world:open({ script = "send * BYE not now\\r\\n" })
      configure({ deep(server) }, { deep_interval = "100ms" })
      engine.await_verdict(nb, server.port, "dead")
      server:close()
      server.options.script = WILLING
      server:reopen()
      engine.await_verdict(nb, server.port, "alive")
      engine.eventually("the reason is gone", function()
        return engine.target(nb, server.port).last_error == nil
      end)
      server:await("played", 1)
    end)

    it("is a good connect probe when it is good", function()
      local server = world:open({ proxy = "v2", script = WILLING })
      -- Only the deep probe is repeated within the test.
      configure({ deep(server, { haproxy_v2 = true }) }, {
        connect_interval = NEVER, deep_interval = "50ms", fast_interval = NEVER,
      })
      server:close()
      assert.is_true(nb.report_failure("127.0.0.1", server.port))
      engine.eventually("both timers found it closed", function()
        local target = engine.target(nb, server.port)
        return target.verdict == "dead" and target.failures >= 3
      end)
      server:reopen()
      engine.await_verdict(nb, server.port, "alive")
      assert.are.same({ server.port }, engine.ports(nb))
    end)

    it("does not save a target that cannot be connected to", function()
      local server = world:open({ script = WILLING })
      configure({ deep(server) }, { deep_interval = NEVER })
      assert.is_true(nb.wait_ready(60))
      assert.are.equal("alive", engine.target(nb, server.port).verdict)
      server:close()
      engine.await_verdict(nb, server.port, "dead")
      assert.matches("^connect: ", engine.target(nb, server.port).last_error)
    end)
  end)

  describe("on demand", function()
    local function check(server, overrides)
      return nb.check_backend_connection(deep(server, overrides))
    end

    it("is what a table with deep_check asks for", function()
      local server = world:open({ script = WILLING })
      assert.is_nil(check(server))
      server:await("played", 1)
      assert.are.same({ true }, { nb.check_backend_connection().check(deep(server)) })
      server:await("played", 2)
    end)

    it("gives the dialogue's reason, without the password", function()
      local reason = check(world:open({ script = UNWILLING }))
      assert.matches("^auth: refused: a1 NO ", reason)
      assert_no_secret(reason)
      local silent = world:open()
      assert.are.equal("greeting: timed out after 100ms" .. NO_HEADER, check(silent, { deep_timeout = "100ms" }))
    end)

    it("goes on under TLS after STARTTLS", function()
      local server = world:open({ script = STARTTLS })
      assert.is_nil(check(server, { tls_mode = "starttls", tls_ca_file = ca }))
      assert.are.equal(1, server:stats().handshakes)
    end)

    it("verifies the certificate after STARTTLS", function()
      local server = world:open({ script = STARTTLS })
      local reason = check(server, { tls_mode = "starttls", tls_ca_file = ca, tls_server_name = "other.example.org" })
      assert.matches("^tls: certificate is not valid for other%.example%.org", reason)
      assert.is_nil(server:stats().received:find(PLAIN, 1, true))
    end)

    it("requires STARTTLS where it is configured", function()
      local server = world:open({ script = GREETING })
      local reason = check(server, { tls_mode = "starttls", tls_ca_file = ca })
      assert.matches("^starttls: ", reason)
      assert.is_nil(server:stats().received:find(PLAIN, 1, true))
    end)

    it("reads the keys of a request and of EHLO from a table", function()
      local function problem(key, value)
        local target = { protocol = "http", host = "127.0.0.1", deep_check = true, [key] = value }
        local well, reason = pcall(nb.check_backend_connection, target)
        return not well and reason or nil
      end
      for _, good in ipairs({
        { "http_method", "head" }, { "http_host", "www.example.org:8080" }, { "http_host", "2001:db8::1" },
        { "expected_status", 204 }, { "expected_status", "200-299,401" }, { "expected_status", { 200, "300-399" } },
        { "helo_name", "probe.example.org" }, { "helo_name", "[192.0.2.1]" },
      }) do
        assert.is_nil(problem(good[1], good[2]))
      end
      assert.matches("http_method: one of GET, HEAD expected, got \"POST\"", problem("http_method", "POST"))
      assert.matches("http_host: host, or host:port expected, got \"a b\"", problem("http_host", "a b"))
      assert.matches("expected_status: status codes and ranges within 200..599", problem("expected_status", 199))
      assert.matches("expected_status%[2%]: status codes", problem("expected_status", { 200, "2xx" }))
      assert.matches("helo_name: host name, or an address literal", problem("helo_name", "192.0.2.1"))
      assert.matches("test_mailbox: only imap, pop3 and sieve have a mailbox to open, http has none",
        problem("test_mailbox", "INBOX"))
    end)

    it("names what is offered where the mechanism is not", function()
      local server = world:open({ script = GREETING })
      assert.matches("^auth: .*PLAIN", check(server, { auth_mechanism = "LOGIN" }))
    end)

    it("logs in to a POP3 server that takes no message in the line of AUTH", function()
      local listing = script {
        "send +OK ready\\r\\n", "expect ^CAPA", "send +OK\\r\\nSASL PLAIN\\r\\nUSER\\r\\n.\\r\\n",
      }
      local function server(...)
        return world:open({ script = script { listing, ... } })
      end
      local by_user = server("expect ^USER probe", "send +OK\\r\\n", "expect ^PASS " .. PASSWORD, "send +OK in\\r\\n")
      assert.is_nil(check(by_user, { protocol = "pop3" }))
      local by_plain = server("expect ^AUTH PLAIN\\s*$", "send + \\r\\n", "expect ^" .. PLAIN, "send +OK in\\r\\n")
      assert.is_nil(check(by_plain, { protocol = "pop3", auth_mechanism = "PLAIN" }))
    end)

    it("sends the PROXY header, and fails where the listener wants none", function()
      assert.is_nil(check(world:open({ proxy = "v2", script = WILLING }), { haproxy_v2 = true }))
      local header_as_line = world:open({ script = script { "expect ^a1 ", "send a1 OK\\r\\n" } })
      assert.matches("^greeting: ", check(header_as_line, { haproxy_v2 = true, deep_timeout = "500ms" }))
    end)

    it("treats an IPv4-mapped address as the IPv4 address: for the password, the certificate and reports", function()
      local MAPPED = "::ffff:127.0.0.1"
      local server = world:open({ script = WILLING })
      local reason = check(server, { host = MAPPED })
      if reason and reason:find("^internal: ") then
        pending("this machine has no IPv6")
        return
      end
      assert.is_nil(reason)
      local under_tls = world:open({ tls = "good", script = WILLING })
      assert.is_nil(check(under_tls, { host = MAPPED, tls = true, tls_ca_file = ca }))
      configure({ deep(server) })
      assert.is_true(nb.report_failure(MAPPED, server.port))
    end)
  end)

  it("is what STARTTLS needs: without it a target is only connected to", function()
    local silent = world:open()
    local settings = { tls_mode = "starttls", tls_ca_file = ca }
    configure({ engine.imap(silent.port, settings) })
    assert.is_true(nb.wait_ready(60))
    assert.are.same({ silent.port }, engine.ports(nb))
    assert.is_nil(nb.check_backend_connection(engine.imap(silent.port, settings)))
    assert.are.same({ 0, "" }, { silent:stats().handshakes, silent:stats().received })
  end)

  describe("and certificates:", function()
    local DAY = 86400

    local function expires_soon(port)
      local target = engine.target(nb, port)
      return target.certificate_expires_soon, target.certificate_expiry
    end

    local function assert_seven_days(expiry)
      local left = expiry - os.time()
      assert.is_true(left > 6 * DAY and left <= 7 * DAY + 60, left / DAY .. " days left")
    end

    it("one that ends soon is shown, and logged once a day for each target", function()
      local log = world:folder() .. "/certificates.log"
      local first = world:open({ tls = "soon", script = WILLING })
      local upgraded = world:open({ script = STARTTLS })
      local lasting = world:open({ tls = "good", script = WILLING })
      local targets = {
        deep(first, { tls = true, tls_ca_file = ca }),
        deep(upgraded, { tls_mode = "starttls", tls_ca_file = ca }),
        deep(lasting, { tls = true, tls_ca_file = ca }),
      }
      -- With one timer, with two, and with another policy.
      for _, overrides in ipairs({ {}, { deep_interval = "40ms" }, { failure_threshold = 2 } }) do
        configure(targets, merged(overrides, { log = log }))
        assert.is_true(nb.wait_ready(60))
        for _, server in ipairs({ first, upgraded, lasting }) do
          assert.are.equal("alive", engine.target(nb, server.port).verdict, engine.target(nb, server.port).last_error)
          engine.await_probes(nb, server.port, 4)
        end
        for _, server in ipairs({ first, upgraded }) do
          local soon, expiry = expires_soon(server.port)
          assert.is_true(soon)
          assert_seven_days(expiry)
        end
        local soon, expiry = expires_soon(lasting.port)
        assert.is_false(soon)
        assert.is_true(expiry - os.time() > 20 * DAY)
      end
      first:await("resumed", 1)
      upgraded:await("resumed", 1)
      -- The end of the log is marked by one line more: everything that was logged before it is in the file by
      -- then.
      first:close()
      engine.await_verdict(nb, first.port, "dead")
      engine.eventually("the last line", function()
        return read_all(log):find("event=target_down", 1, true)
      end)
      local text = read_all(log)
      assert.are.equal(2, count(text, "event=certificate_expires"), text)
      for _, server in ipairs({ first, upgraded }) do
        assert.are.equal(1, count(text, "event=certificate_expires target=imap://127%.0%.0%.1:" .. server.port
          .. " days_left=6"), text)
      end
    end)

    it("one that ended is shown and logged where it is accepted", function()
      local log = world:folder() .. "/ended.log"
      local server = world:open({ tls = "expired", script = WILLING })
      configure({ deep(server, { tls = true, tls_skip_verify = true }) }, { log = log })
      assert.is_true(nb.wait_ready(60))
      assert.is_true((expires_soon(server.port)))
      engine.eventually("the line", function()
        return read_all(log):find("event=certificate_expires target=%S+ days_left=0")
      end)
    end)

    it("cert_warn says how soon is soon, and 0 that none is", function()
      local server = world:open({ tls = "expired", script = WILLING })
      local soon = world:open({ tls = "soon", script = WILLING })
      local targets = {
        deep(server, { tls = true, tls_skip_verify = true }), deep(soon, { tls = true, tls_ca_file = ca }),
      }
      configure(targets, { cert_warn = "5d" })
      assert.is_true(nb.wait_ready(60))
      assert.are.same({ true, false }, { (expires_soon(server.port)), (expires_soon(soon.port)) })
      configure(targets, { cert_warn = 0 })
      assert.is_true(nb.wait_ready(60))
      assert.are.same({ false, false }, { (expires_soon(server.port)), (expires_soon(soon.port)) })
    end)

    it("a process that takes up the state file does not log them again", function()
      local folder = world:folder()
      local log, state = folder .. "/restart.log", folder .. "/restart.state"
      local server = world:open({ tls = "soon", script = WILLING })
      local program = string.format([[
        local nb = require("nauthilus_backend")
        nb.configure({
          log = %q, state_file = %q, connect_interval = "50ms", fast_interval = "50ms",
          backend_servers = {
            { protocol = "imap", host = "127.0.0.1", port = %d, tls = true, tls_ca_file = %q },
          },
        })
        assert(nb.wait_ready(60))
        local before, deadline = nb.status().targets[1].probes, os.time() + 20
        local function read(path)
          local file = io.open(path)
          local text = file and file:read("*a") or ""
          if file then file:close() end
          return text
        end
        while os.time() < deadline do
          local probed = nb.status().targets[1].probes >= before + 3
          local saved = read(%q):find("\ntarget ", 1, true)
          if probed and saved and read(%q):find("certificate_expires", 1, true) then
            print("probed")
            return
          end
        end
      ]], log, state, server.port, ca, state, log)
      for _ = 1, 2 do
        local output, well = interpreter.run(program)
        assert.is_true(well, output)
        assert.are.equal("probed\n", output)
      end
      assert.are.equal(1, count(read_all(log), "event=certificate_expires"), read_all(log))
    end)
  end)

  describe("and TLS sessions:", function()
    it("they are resumed between full handshakes", function()
      local function full_ones(peer)
        local stats = peer:stats()
        return stats.handshakes - stats.resumed, stats.handshakes
      end
      -- Full handshakes until a ticket came in time; on a busy machine that may take a while.
      local most
      for _ = 1, 5 do
        local server = world:open({ tls = "good", script = WILLING })
        local connected = world:open({ tls = "good" })
        configure({
          deep(server, { tls = true, tls_ca_file = ca }),
          engine.imap(connected.port, { tls = true, tls_ca_file = ca }),
        })
        most = 0
        for _, peer in ipairs({ server, connected }) do
          peer:await("resumed", 1)
          local first, before = full_ones(peer)
          peer:await("handshakes", before + 5)
          assert.are.equal(first, (full_ones(peer)))
          most = math.max(most, first)
        end
        if most <= 2 then
          break
        end
      end
      -- The ticket of the first handshake may have come too late for the second one.
      assert.is_true(most <= 2, most .. " full handshakes before one was resumed")
    end)

    it("tls_full_handshake_interval forces full ones, 0 each time", function()
      local server = world:open({ tls = "good", script = WILLING })
      local targets = { deep(server, { tls = true, tls_ca_file = ca }) }
      configure(targets, { connect_interval = "20ms", tls_full_handshake_interval = 0 })
      server:await("handshakes", 5)
      assert.are.equal(0, server:stats().resumed)
      configure(targets, { connect_interval = "20ms", tls_full_handshake_interval = "200ms" })
      server:await("resumed", 1)
      local before = server:stats()
      engine.eventually("three more full handshakes among resumed ones", function()
        local now = server:stats()
        local resumed = now.resumed - before.resumed
        return resumed >= 3 and now.handshakes - before.handshakes - resumed >= 3
      end)
    end)

    it("a new configuration forgets them", function()
      local server = world:open({ tls = "good" })
      local targets = { engine.imap(server.port, { tls = true, tls_ca_file = ca }) }
      configure(targets, { cert_warn = "1d" })
      server:await("resumed", 2)
      local stats = server:stats()
      local full = stats.handshakes - stats.resumed
      configure(targets)
      engine.eventually("another full handshake", function()
        stats = server:stats()
        return stats.handshakes - stats.resumed > full
      end)
    end)
  end)

  describe("of a real Dovecot", function()
    local dovecot

    lazy_setup(function()
      dovecot = Dovecot.new()
      dovecot:start()
    end)

    lazy_teardown(function()
      dovecot:quit()
    end)

    -- Its logins take a moment on a busy machine.
    local PATIENT = {
      -- A few wrong logins, and it takes its time over the next one.
      connect_interval = "1h", fast_interval = "1s",
      connect_timeout = "10s", tls_timeout = "10s", deep_timeout = "20s",
    }

    local function listeners(password)
      local starttls = { tls_mode = "starttls", tls_ca_file = dovecot.ca }
      local implicit = { tls = true, tls_ca_file = dovecot.ca }
      local all = {}
      for _, each in ipairs({
        { "imap", dovecot.imap, {} },
        { "imap", dovecot.imap, starttls },
        { "imap", dovecot.imaps, implicit },
        { "imap", dovecot.imap_proxy, { haproxy_v2 = true } },
        { "imap", dovecot.imaps_proxy, merged(implicit, { haproxy_v2 = true }) },
        { "pop3", dovecot.pop3, starttls },
        { "pop3", dovecot.pop3s, implicit },
        { "sieve", dovecot.sieve, { tls = false } },
        { "sieve", dovecot.sieve, starttls },
      }) do
        local protocol, port, how = each[1], each[2], each[3]
        all[#all + 1] = merged({
          protocol = protocol, host = "127.0.0.1", port = port,
          deep_check = true, test_username = USER, test_password = password,
        }, how)
      end
      for _, protocol in ipairs({ "lmtp", "smtp" }) do
        local port = protocol == "smtp" and dovecot.submission or dovecot.lmtp
        all[#all + 1] = { protocol = protocol, host = "127.0.0.1", port = port, deep_check = true }
        all[#all + 1] = merged(all[#all], starttls)
      end
      return all
    end

    it("is good on every listener with the right password", function()
      configure(listeners("secret"), PATIENT)
      assert.is_true(nb.wait_ready(60))
      for index, target in ipairs(nb.status().targets) do
        assert.are.equal("alive", target.verdict, index .. " " .. target.key .. ": " .. tostring(target.last_error))
      end
    end)

    it("fails with the wrong one, which is shown nowhere", function()
      configure(listeners(PASSWORD), PATIENT)
      assert.is_true(nb.wait_ready(60))
      local status, servers = nb.status(), nb.get_backend_servers()
      configure({})
      for index, target in ipairs(status.targets) do
        if target.protocol == "lmtp" or target.protocol == "smtp" then
          assert.are.equal("alive", target.verdict, index .. " " .. tostring(target.last_error))
        else
          assert.are.equal("dead", target.verdict, index .. " " .. target.key)
          assert.matches("^auth: refused: ", target.last_error)
        end
      end
      assert_no_secret({ status, servers })
    end)

    it("is made on demand", function()
      local target = merged({
        host = "127.0.0.1", port = dovecot.imap, protocol = "imap", tls_mode = "starttls", tls_ca_file = dovecot.ca,
        deep_check = true, test_username = USER, test_password = "secret",
      }, { connect_timeout = "10s", tls_timeout = "10s", deep_timeout = "20s" })
      assert.is_nil(nb.check_backend_connection(target))
      target.test_mailbox = "INBOX"
      assert.is_nil(nb.check_backend_connection(target))
      target.test_mailbox = "gone"
      assert.matches("^examine: refused: a%d NO .*Mailbox doesn't exist: gone", nb.check_backend_connection(target))
      target.test_mailbox = nil
      target.test_password = PASSWORD
      local reason = nb.check_backend_connection(target)
      assert.matches("^auth: refused: ", reason)
      assert_no_secret(reason)
    end)
  end)
end)
