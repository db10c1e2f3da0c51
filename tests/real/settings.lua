-- Keys of a check against real servers, as a Lua table and as YAML: nginx, Dovecot, Postfix,
-- `openssl s_server`. Prints TAP; `lua settings.lua [postfix]` from the project's root.

local control = require("spec.support.control")
local engine = require("spec.support.engine")
local nb = require("nauthilus_backend")
local tap = require("tests.lib.tap")

local check = tap.check

local function start(program)
  local server = control.start(program)
  for key, value in pairs(server:call("start")) do
    server[key] = tonumber(value) or value
  end
  return server
end

-- --- One configuration, written in both ways ----------------------------------------------------

-- Logins take a moment on a busy machine.
local PATIENT = { connect_timeout = "20s", tls_timeout = "20s", deep_timeout = "40s", connect_interval = "1h" }

local function yaml(value)
  if type(value) == "table" then
    local items = {}
    for index, item in ipairs(value) do
      items[index] = yaml(item)
    end
    return "[" .. table.concat(items, ", ") .. "]"
  end
  return type(value) == "string" and "'" .. value:gsub("'", "''") .. "'" or tostring(value)
end

local function written(service, targets)
  local lines = { "backend_server_monitoring:", "  log: none" }
  for key, value in pairs(service) do
    lines[#lines + 1] = ("  %s: %s"):format(key, yaml(value))
  end
  lines[#lines + 1] = "  backend_servers:"
  for _, target in ipairs(targets) do
    local first = "    - "
    for key, value in pairs(target) do
      lines[#lines + 1] = first .. key .. ": " .. yaml(value)
      first = "      "
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

-- Calls `body` with each form in force, and the first verdicts there.
local function in_both(name, service, targets, body)
  local all = { log = "none", backend_servers = targets }
  for key, value in pairs(PATIENT) do
    if service[key] == nil then
      service[key] = value
    end
  end
  for key, value in pairs(service) do
    all[key] = value
  end
  local path = os.tmpname()
  local file = assert(io.open(path, "w"))
  file:write(written(service, targets))
  file:close()
  for form, given in pairs({ table = all, YAML = path }) do
    local label = name .. ", " .. form
    nb.stop()
    -- A new target has no verdict.
    nb.configure({ log = "none", backend_servers = {} })
    local ok, problem = pcall(nb.configure, given)
    if ok then
      ok, problem = nb.wait_ready(120)
    end
    if ok then
      ok, problem = pcall(body, label)
    end
    if not ok then
      check(label, false, problem)
    end
  end
  os.remove(path)
end

local function merged(...)
  local all = {}
  for _, part in ipairs({ ... }) do
    for key, value in pairs(part) do
      all[key] = value
    end
  end
  return all
end

-- Checks that a target is alive, or dead for this reason (a pattern).
local function verdict(name, target, reason)
  in_both(name, {}, { target }, function(label)
    local seen = nb.status().targets[1]
    if reason then
      local told = tostring(seen.last_error)
      check(label, seen.verdict == "dead" and told:find(reason), seen.verdict .. " " .. told)
    else
      check(label, seen.verdict == "alive", seen.last_error)
    end
  end)
end

-- --- nginx ----------------------------------------------------------------------------------------

local function of_nginx()
  local web = start("web.py")
  local function http(uri, keys, port)
    return merged({ protocol = "http", host = "127.0.0.1", port = port or web.http, deep_check = true,
      request_uri = uri }, keys or {})
  end
  verdict("http_method is GET by default", http("/method?wanted=GET"))
  verdict("http_method: HEAD", http("/method?wanted=HEAD", { http_method = "HEAD" }))
  verdict("http_method: HEAD where GET is wanted", http("/method?wanted=GET", { http_method = "HEAD" }),
    "^http: status 405")
  verdict("the host and its port are named", http("/host?wanted=127.0.0.1:" .. web.http))
  verdict("http_host: a name", http("/host?wanted=www.example.org", { http_host = "www.example.org" }))
  verdict("http_host: a name and a port", http("/host?wanted=www.example.org:8080",
    { http_host = "www.example.org:8080" }))
  verdict("http_host: an IPv6 address", http("/host?wanted=[2001:db8::1]", { http_host = "2001:db8::1" }))
  verdict("http_host that is another's", http("/host?wanted=a.example", { http_host = "b.example" }),
    "^http: status 421")
  if web.http6 then
    verdict("source_address of IPv6", merged(http("/from?wanted=::1", { source_address = "::1" }, web.http6),
      { host = "::1" }))
    verdict("an IPv6 address is bracketed", merged(http(("/host?wanted=[::1]:%d"):format(web.http6), nil, web.http6),
      { host = "::1" }))
  else
    print("ok - an IPv6 address is bracketed # SKIP this machine has no ::1")
  end
  verdict("a redirect is good by default", http("/moved"))
  verdict("expected_status: a range without redirects", http("/moved", { expected_status = "200-299" }),
    "^http: status 301 Moved Permanently %(expected 200%-299%)$")
  verdict("expected_status: a code", http("/gone", { expected_status = 503 }))
  verdict("expected_status: codes and ranges", http("/gone", { expected_status = "204,500-599" }))
  verdict("expected_status: a list", http("/moved", { expected_status = { 200, "300-303" } }))
  verdict("source_address", http("/from?wanted=127.0.0.9", { source_address = "127.0.0.9" }))
  verdict("source_address that is another", http("/from?wanted=127.0.0.9", { source_address = "127.0.0.8" }),
    "^http: status 421")

  -- The target with a short interval notices the end of the server, the one with an interval of a day does
  -- not.
  in_both("deep_interval", { connect_interval = "24h" }, {
    http("/", { deep_interval = "50ms" }),
    http("/", { deep_interval = "24h", expected_status = 200 }),
  }, function(label)
    web:call("stop")
    engine.eventually("the end", function() return nb.status().targets[1].verdict == "dead" end, 60)
    check(label, nb.status().targets[2].verdict == "alive", nb.status().targets[2].last_error)
    web:call("start")
  end)
  nb.stop()
  web:stop()
end

-- nginx's mail proxy takes POP3 commands of at most 128 bytes.
local function of_mail_proxy()
  local user, password = "health-check.probe@imap.mail.example.com", ("x"):rep(50)
  local proxy = control.start("pop3_proxy.py")
  local port = tonumber(proxy:call("start", { password = password }).port)
  local function pop3(keys)
    return merged({ protocol = "pop3", host = "127.0.0.1", port = port, deep_check = true,
      test_username = user, test_password = password }, keys or {})
  end
  verdict("a long name and password of pop3", pop3())
  verdict("auth_mechanism: PLAIN", pop3({ auth_mechanism = "PLAIN" }))
  verdict("auth_mechanism: LOGIN", pop3({ auth_mechanism = "LOGIN" }))
  verdict("auth_mechanism: USERPASS", pop3({ auth_mechanism = "USERPASS" }))
  verdict("a wrong password of pop3", pop3({ test_password = "wrong" }),
    "^auth: refused: %-ERR Invalid login or password$")
  nb.stop()
  proxy:stop()
end

-- --- Dovecot --------------------------------------------------------------------------------------

local function of_dovecot()
  local dovecot = start("dovecot.py")
  local function login(protocol, port, keys)
    return merged({
      protocol = protocol, host = "127.0.0.1", port = port, tls = true, tls_ca_file = dovecot.ca,
      deep_check = true, test_username = "probe", test_password = "secret",
    }, keys)
  end
  local function imap(mailbox, keys)
    return login("imap", dovecot.imaps, merged({ test_mailbox = mailbox }, keys or {}))
  end
  local sieve = { tls = false, tls_mode = "starttls" }
  -- The first login makes the user's folder in the store.
  verdict("test_mailbox: INBOX", imap("INBOX"))
  for _, name in ipairs({ "Entw&APw-rfe", "a b", "R&-D" }) do
    dovecot:call("mailbox", { name = name })
  end
  verdict("test_mailbox: a name that is not ASCII", imap("Entwürfe"))
  verdict("test_mailbox: a name with a space", imap("a b"))
  verdict("test_mailbox: a name with an ampersand", imap("R&D"))
  verdict("test_mailbox that is missing", imap("gone"), "^examine: refused: a%d+ NO .*Mailbox doesn't exist: gone")
  verdict("test_mailbox of pop3", login("pop3", dovecot.pop3s, { test_mailbox = "any" }))
  verdict("test_mailbox of sieve", merged(login("sieve", dovecot.sieve, { test_mailbox = "any" }),
    { tls_mode = "starttls" }, sieve))

  dovecot:call("hang")
  verdict("a store that hangs behind a working login is found", imap("INBOX", { deep_timeout = "5s" }),
    "^examine: timed out after 5s$")
  verdict("the login alone goes on working", login("imap", dovecot.imaps, {}))
  dovecot:call("unhang")
  verdict("the store goes on", imap("INBOX"))

  -- All listeners end at once, and come back. The targets differ in their settings only.
  local function each(keys)
    return {
      protocol = "imap", host = "127.0.0.1", port = dovecot.imap, source_address = keys.from,
      connect_interval = "50ms", fast_interval = "50ms",
      failure_threshold = keys.failure_threshold, recovery_threshold = keys.recovery_threshold,
    }
  end
  in_both("intervals and thresholds", { connect_interval = "24h", panic_threshold = "25%" }, {
    each({ from = "127.0.0.1" }),
    merged(each({ from = "127.0.0.2" }), { connect_interval = "24h" }),
    merged(each({ from = "127.0.0.3", failure_threshold = 2 }), { fast_interval = "24h" }),
    merged(each({ from = "127.0.0.4", recovery_threshold = 20 }), { connect_interval = "50ms" }),
  }, function(label)
    local function verdicts()
      local found = {}
      for index, target in ipairs(nb.status().targets) do
        found[index] = target.verdict
      end
      return table.concat(found, " ")
    end
    dovecot:call("stop")
    engine.eventually("two are dead", function() return verdicts() == "dead alive alive dead" end, 60)
    -- The third target had one failure; its next probe would be made in a day.
    engine.eventually("a first failure of the third", function() return nb.status().targets[3].failures == 1 end, 60)
    check(label .. ": failure_threshold, connect_interval", verdicts() == "dead alive alive dead", verdicts())
    check(label .. ": half of them is no panic", #nb.get_backend_servers() == 2 and #nb.status().panic == 0)
    local function good()
      local fourth = nb.status().targets[4]
      return fourth.probes - fourth.failures
    end
    local before = good()
    dovecot:call("start")
    engine.eventually("all are alive", function() return verdicts() == "alive alive alive alive" end, 60)
    check(label .. ": recovery_threshold", good() >= before + 20, good() - before)
  end)
  in_both("panic_threshold", { connect_interval = "50ms", fast_interval = "50ms", panic_threshold = "100%" }, {
    { protocol = "imap", host = "127.0.0.1", port = dovecot.imap },
    { protocol = "imap", host = "127.0.0.1", port = dovecot.imaps },
  }, function(label)
    check(label .. ": all are alive", #nb.status().panic == 0)
    dovecot:call("stop")
    engine.eventually("the panic", function() return nb.status().panic[1] == "imap" end, 60)
    check(label .. ": all are listed", #nb.get_backend_servers() == 2)
    dovecot:call("start")
    engine.eventually("its end", function() return #nb.status().panic == 0 end, 60)
    check(label .. ": it ends", #nb.get_backend_servers() == 2)
  end)
  nb.stop()
  dovecot:stop()
end

-- --- Postfix --------------------------------------------------------------------------------------

local function of_postfix()
  local postfix = start("postfix.py")
  local function smtp(keys)
    return merged({ protocol = "smtp", host = "127.0.0.1", port = postfix.smtp_strict, deep_check = true }, keys or {})
  end
  local refused = "^capability: refused: 504 5%.5%.2 <localhost>: Helo command rejected"
  verdict("helo_name by default", smtp())
  verdict("helo_name: a name", smtp({ helo_name = "probe.example.org" }))
  verdict("helo_name: an address literal", smtp({ helo_name = "[192.0.2.1]" }))
  verdict("helo_name that is not fully qualified", smtp({ helo_name = "localhost" }), refused)
  local servers = { smtp(), smtp({ helo_name = "probe.example.org" }) }
  in_both("helo_name of the service", { helo_name = "localhost" }, servers,
    function(label)
      local targets = nb.status().targets
      check(label, targets[1].verdict == "dead" and targets[1].last_error:find(refused), targets[1].last_error)
      check(label .. ", and a target's own", targets[2].verdict == "alive", targets[2].last_error)
    end)
  nb.stop()
  postfix:stop()
end

-- --- openssl s_server -----------------------------------------------------------------------------

local function of_openssl()
  local servers = control.start("openssl.py")
  local folder = servers:call("certificates").folder
  for _, version in ipairs({ "1.2", "1.3" }) do
    local port = tonumber(servers:call("start", { version = version }).port)
    local function imap(keys)
      local ca = folder .. "/ca.crt"
      return merged({ protocol = "imap", host = "127.0.0.1", port = port, tls = true, tls_ca_file = ca }, keys or {})
    end
    local function of(name)
      return { tls_cert_file = ("%s/%s.crt"):format(folder, name), tls_key_file = ("%s/%s.key"):format(folder, name) }
    end
    local label = "TLS " .. version .. ": "
    verdict(label .. "tls_cert_file, tls_key_file", imap(of("good")))
    verdict(label .. "without them", imap(), "^tls: .*a client certificate %(tls_cert_file, tls_key_file%)$")
    verdict(label .. "of another authority", imap(of("selfsigned")),
      "^tls: the server refuses the client certificate of tls_cert_file: ")
    verdict(label .. "tls_min_version: 1.2", imap(merged(of("good"), { tls_min_version = "1.2" })))
    verdict(label .. "tls_min_version: 1.3", imap(merged(of("good"), { tls_min_version = "1.3" })),
      version == "1.2" and "^tls: the server offers no TLS version of 1%.3 %(tls_min_version%)$" or nil)
  end
  nb.stop()
  servers:stop()
end

of_nginx()
of_mail_proxy()
of_dovecot()
of_openssl()
if arg[1] == "postfix" then
  of_postfix()
end
os.exit(tap.failures == 0 and 0 or 1)
