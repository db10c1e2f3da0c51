-- What is said of a configuration that is refused, and of one that is hardly what was meant, from a
-- Lua table and from a YAML file.

local engine = require("spec.support.engine")
local files = require("spec.support.files")
local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")

describe("a mistake in a configuration", function()
  local nb = require("nauthilus_backend")
  local content = files.content
  local path, log

  before_each(function()
    path, log = os.tmpname(), os.tmpname()
  end)

  after_each(function()
    nb.stop()
    os.remove(path)
    os.remove(log)
  end)

  local function write(text)
    return files.write(path, text)
  end

  -- Without `bad argument #1 to 'configure' (…)`, which is around each.
  local function refusal(config)
    local ok, problem = pcall(nb.configure, config)
    assert.is_false(ok)
    return problem:match("^[^(]*%((.*)%)$") or problem
  end

  -- What a process says of a file that its environment names.
  local function from_environment(file, script)
    local output, well = interpreter.run(
      'local nb = require("nauthilus_backend")\n' .. script, nil, ("NAUTHILUS_BACKEND_CONFIG='%s'"):format(file))
    assert.is_true(well, output)
    return output
  end

  -- What is refused as a file, both where a script names it and where the environment does.
  local function refusal_of_file(text)
    local problem = refusal(write(text))
    local told = from_environment(path, "local _, problem = pcall(nb.get_backend_servers) print(problem)")
    assert.are.equal("NAUTHILUS_BACKEND_CONFIG: " .. problem .. "\n",
      told:match("NAUTHILUS_BACKEND_CONFIG: .*") or told)
    return problem
  end

  -- The same key of a server as a table, as YAML, and as YAML that the environment names.
  local function of_server(key, value, written, problem)
    local server = { protocol = "imap", host = "127.0.0.1", port = 1 }
    server[key] = value
    assert.are.equal("backend_servers[1]." .. problem, refusal({ log = "none", backend_servers = { server } }))
    local host = key == "host" and "" or "      host: 127.0.0.1\n"
    local text = ("backend_server_monitoring:\n  log: none\n  backend_servers:\n    - protocol: imap\n      %s: %s\n%s")
    assert.are.equal(path .. ": line 5: backend_server_monitoring.backend_servers[1]." .. problem,
      refusal_of_file(text:format(key, written, host)))
  end

  -- The same of a key of the service.
  local function of_service(key, value, written, problem)
    assert.are.equal(problem, refusal({ log = "none", backend_servers = {}, [key] = value }))
    local text = "backend_server_monitoring:\n  log: none\n  %s: %s\n  backend_servers: []\n"
    assert.are.equal(path .. ": line 3: backend_server_monitoring." .. problem,
      refusal_of_file(text:format(key, written)))
  end

  it("of a server is named as it was made", function()
    local with_port = 'host: IPv4, IPv6 or host name expected, got "%s" (the port has its own key)'
    for _, host in ipairs({ "[::1]:993", "127.0.0.1:993", "imap.example.org:993" }) do
      of_server("host", host, '"' .. host .. '"', with_port:format(host))
    end
    of_server("host", "imap://u:hunter2@x", "imap://u:hunter2@x",
      "host: IPv4, IPv6 or host name expected, got a string with @ in it (a host alone, not a URL)")
    of_server("tls", "u:hunter2@x", "u:hunter2@x", "tls: boolean expected, got a string with @ in it"
      .. " (write true or false without quotes)")
    for _, name in ipairs({ "proxy_protocol", "proxy", "send_proxy_v2" }) do
      of_server(name, true, "true", name .. ": unknown key; did you mean haproxy_v2?")
    end
    of_server("timeout", 1, "1",
      "timeout: unknown key; did you mean connect_timeout, tls_timeout or deep_timeout?")
    of_server("interval", 1, "1",
      "interval: unknown key; did you mean connect_interval, deep_interval or fast_interval?")
    of_server("name", "mail1", "mail1", "name: unknown key; did you mean host or node?")
    of_server("ssl", true, "true", "ssl: unknown key; did you mean tls?")
    of_server("starttls", true, "true", "starttls: unknown key; did you mean tls_mode?")
    of_server("enabled", true, "true", "enabled: unknown key")
    of_server("tls", "yes", "yes", 'tls: boolean expected, got string "yes" (write true)')
    of_server("tls", "off", "off", 'tls: boolean expected, got string "off" (write false)')
    of_server("tls", "starttls", "starttls", 'tls: boolean expected, got "starttls" (write tls_mode: starttls)')
    of_server("deep_timeout", "10 s", "10 s",
      'deep_timeout: duration 1ms..5m expected, got "10 s" (write it without a space)')
  end)

  it("of the service is named as it was made", function()
    of_service("timeout", 1, "1",
      "timeout: unknown key; did you mean connect_timeout, tls_timeout or deep_timeout?")
    of_service("interval", 1, "1",
      "interval: unknown key; did you mean connect_interval, deep_interval or fast_interval?")
    for _, name in ipairs({ "name", "ssl", "enabled" }) do
      of_service(name, true, "true", name .. ": unknown key")
    end
    of_service("tls", true, "true", "tls: unknown key of the service section; it belongs to a target")
    of_service("connect_interval", "10 s", "10 s",
      'connect_interval: duration 10ms..24h expected, got "10 s" (write it without a space)')
  end)

  it("of a list with a nil in it is named as one", function()
    local server = { protocol = "imap", host = "127.0.0.1", port = 1 }
    for _, servers in ipairs({ { server, nil, server }, { nil, server } }) do
      assert.are.equal("backend_servers: an array without gaps expected",
        refusal({ log = "none", backend_servers = servers }))
    end
    assert.are.equal("expose_attributes: an array without gaps expected",
      refusal({ log = "none", backend_servers = {}, expose_attributes = { "a", nil, "c" } }))
    server.expected_status = { 200, nil, 300 }
    assert.are.equal("backend_servers[1].expected_status: an array without gaps expected",
      refusal({ log = "none", backend_servers = { server } }))
    assert.are.equal("backend_servers: an array or a table of named keys expected, got both in one",
      refusal({ log = "none", backend_servers = { server, x = 1 } }))
  end)

  it("of a variable in a file is one of its value, not of its absence", function()
    write("backend_server_monitoring: {log: none, helo_name: '${W}', backend_servers: []}\n")
    local script = 'print(pcall(require("nauthilus_backend").configure, "' .. path .. '"))'
    for _, case in ipairs({ { "", "not set" }, { "W=$(printf 'caf\\351')", "not UTF-8" } }) do
      local output = interpreter.run(script, nil, case[1])
      assert.truthy(output:find("helo_name: environment variable W is " .. case[2], 1, true), output)
    end
  end)

  it("in the section's name suggests the right one", function()
    local problem = "backend_servers_monitoring: unknown section; did you mean backend_server_monitoring?"
    assert.are.equal(problem, refusal({ backend_servers_monitoring = { backend_servers = {} } }))
    assert.are.equal(path .. ": line 2: " .. problem,
      refusal_of_file("a: b\nbackend_servers_monitoring: {backend_servers: []}\n"))
    problem = "auth.services.backend_health_check: unknown section; did you mean backend_health_checks?"
    assert.are.equal(problem, refusal({ auth = { services = { backend_health_check = { backend_servers = {} } } } }))
    assert.are.equal(path .. ": line 3: " .. problem,
      refusal_of_file("auth:\n  services:\n    backend_health_check: {backend_servers: []}\n"))
  end)

  it("is a section without content", function()
    local problem = "backend_server_monitoring: table expected, got nothing"
    assert.are.equal(path .. ": line 1: " .. problem, refusal_of_file("backend_server_monitoring:\n"))
    problem = "auth.services.backend_health_checks: table expected, got nothing"
    assert.are.equal(path .. ": line 3: " .. problem,
      refusal_of_file("auth:\n  services:\n    backend_health_checks:\n"))
    problem = "backend_server_monitoring.backend_servers: list of tables expected, got nothing"
    assert.are.equal(problem, refusal({ backend_server_monitoring = {} }))
    assert.are.equal(path .. ": line 1: " .. problem, refusal_of_file("backend_server_monitoring: {}\n"))
  end)

  it("is no tab after a colon", function()
    write("backend_server_monitoring:\n  log:\tnone\n  backend_servers:\n"
      .. "    - host:\t127.0.0.1\n      protocol:\timap\n"
      .. "      tls:\tfalse\n      port:\t\t1\n")
    nb.configure(path)
    assert.are.equal("imap://127.0.0.1:1", nb.status().targets[1].key)
    assert.are.equal("imap://127.0.0.1:1\n", from_environment(path,
      "nb.get_backend_servers() print(nb.status().targets[1].key)"))
  end)

  it("is no call that comes first", function()
    -- A server that does not answer has no verdict for long, so that it counts as alive.
    local world = peers.new()
    finally(function() world:stop() end)
    local port = world:hole().port
    write("backend_server_monitoring:\n  log: none\n  connect_timeout: 1m\n  backend_servers:\n"
      .. ("    - { protocol: imap, host: 127.0.0.1, port: %d, node: one, deep_check: true,\n"):format(port)
      .. "        test_username: probe, test_password: pw }\n")
    for call, expected in pairs({
      [('nb.report_failure("127.0.0.1", %d)'):format(port)] = "true",
      ['nb.is_health_check("probe")'] = "true",
      ["#nb.get_backend_servers()"] = "1",
      ['nb.route("alice").node'] = "one",
      ['nb.explain_route("alice").node'] = "one",
      ["#nb.nodes()"] = "1",
      ['nb.touch_users({}, "one")'] = "nil\tno store",
      ['nb.set_target_state("node:one", "drain")'] = "",
      ["nb.status().configured"] = "true",
      ['nb.metrics():match("target_up{target=%S+")'] = ('target_up{target="imap://127.0.0.1:%d"}'):format(port),
    }) do
      assert.are.equal(expected .. "\n", from_environment(path, ("print(%s)"):format(call)), call)
    end
  end)

  it("of the text has its line and the whole sentence", function()
    local head = "backend_server_monitoring:\n  log: none\n"
    assert.are.equal(path .. ": line 3: byte 8 of it is not UTF-8", refusal_of_file(head .. "  # caf\233\n"))
    for text, line in pairs({
      ["  backend_servers: [\n"] = 4,
      ["  state_file: 'it's'\n  backend_servers: []\n"] = 3,
      ['  state_file: "unclosed\n  backend_servers: []\n'] = 0,
      ["  log2: a: b\n"] = 3,
      ["\tbackend_servers: []\n"] = 3,
      ["  state_file: x\n\tbackend_servers: []\n"] = 4,
      ["  backend_servers:\n    - host: x\n\n    \tport: 1\n"] = 6,
      ["  - backend_servers\n"] = 3,
      ["  state_file: @x\n"] = 3,
      ["  state_file: `x\n"] = 3,
      ["  state_file: *x\n"] = 3,
    }) do
      local problem = refusal_of_file(head .. text)
      assert.matches("^" .. path:gsub("%p", "%%%0") .. ": line %d+: not YAML: %l", problem)
      if line > 0 then
        assert.are.equal(line, tonumber(problem:match(": line (%d+): ")), problem)
      end
      assert.is_nil(problem:find("\\", 1, true), problem)
      -- No message is truncated.
      assert.is_nil(problem:find("%.%.%.$"), problem)
    end
  end)

  it("repeats a path on one line, whatever is in its name", function()
    local odd = "/nowhere/a\nb\27c"
    local shown = "/nowhere/a\\nb\\u{1b}c"
    assert.are.equal(shown .. "\\u{0}d: cannot be opened: file name contained an unexpected NUL byte",
      refusal(odd .. "\0d"))
    local function with(settings)
      local server = { protocol = "imap", host = "127.0.0.1", port = 1, tls = true }
      return { log = "none", backend_servers = { engine.changed(server, settings) } }
    end
    for start, config in pairs({
      [""] = odd,
      ["log: cannot append to "] = { log = odd, backend_servers = {} },
      ["state_file: cannot use "] = { log = "none", state_file = odd, backend_servers = {} },
      ["backend_servers[1].tls_ca_file: "] = with({ tls_ca_file = odd }),
      ["backend_servers[1].tls_cert_file: "] = with({ tls_cert_file = odd, tls_key_file = odd }),
      ["cluster.password_file: "] = { log = "none", backend_servers = {},
        cluster = { redis = "redis://127.0.0.1:1", password_file = odd } },
    }) do
      assert.are.equal(start .. shown .. ": no such file",
        (refusal(config):lower():gsub(" or directory %(os error 2%)", "")))
    end
    local world = peers.new()
    finally(function() world:stop() end)
    assert.are.equal("tls: tls_ca_file " .. shown .. ": no such file",
      nb.check_backend_connection("127.0.0.1", world:open().port, false, true, { tls_ca_file = odd }))
  end)

  it("that only the system finds has file and line too", function()
    for key, problem in pairs({
      log = "log: cannot append to /nowhere/x: ",
      state_file = "state_file: cannot use /nowhere/x: ",
    }) do
      local config = { backend_servers = {}, log = "none" }
      config[key] = "/nowhere/x"
      assert.is_truthy(refusal(config):find(problem, 1, true))
      local text = ("backend_server_monitoring:\n  backend_servers: []\n  %s: /nowhere/x\n"):format(key)
      if key ~= "log" then
        text = text .. "  log: none\n"
      end
      local found = refusal_of_file(text)
      assert.is_truthy(found:find(path .. ": line 3: backend_server_monitoring." .. problem, 1, true), found)
    end
  end)

  it("that is none by the rules is warned of, each of the kinds", function()
    local in_vain = "has no effect without TLS (tls: true, or tls_mode)"
    local starttls = "starttls is not tried without deep_check: the server is only connected to"
    local slow = "is above connect_interval: a server that failed is probed less often than a good one"
    for _, case in ipairs({
      { "test_username: u, test_password: p", "test_username: is not used: without deep_check nothing logs in",
        { test_username = "u", test_password = "p" } },
      { "tls_skip_verify: true", "tls_skip_verify: " .. in_vain, { tls_skip_verify = true } },
      { "tls_server_name: a.example", "tls_server_name: " .. in_vain, { tls_server_name = "a.example" } },
      { "tls_min_version: 1.3", "tls_min_version: " .. in_vain, { tls_min_version = 1.3 } },
      { "request_uri: /", "request_uri: has no effect: it is for http alone", { request_uri = "/" } },
      { "connect_interval: 5s, fast_interval: 6s", "fast_interval: " .. slow,
        { connect_interval = "5s", fast_interval = "6s" } },
      { "tls_mode: starttls", "tls_mode: " .. starttls, { tls_mode = "starttls" } },
    }) do
      local server = { protocol = "imap", host = "127.0.0.1", port = 1 }
      for key, value in pairs(case[3]) do
        server[key] = value
      end
      nb.configure({ log = "none", backend_servers = { server } })
      assert.are.same({ "backend_servers[1]." .. case[2] }, nb.status().warnings)
      local head = "backend_server_monitoring:\n  log: none\n  backend_servers:\n"
      write(head .. ("    - { protocol: imap, host: 127.0.0.1, port: 1, %s }\n"):format(case[1]))
      nb.configure(path)
      local warning = path .. ": line 4: backend_server_monitoring.backend_servers[1]." .. case[2]
      assert.are.same({ warning }, nb.status().warnings)
      assert.are.equal("1 " .. warning .. "\n", from_environment(path, [[
        nb.get_backend_servers()
        print(#nb.status().warnings .. " " .. nb.status().warnings[1])
      ]]))
    end
    local twice = { protocol = "imap", host = "127.0.0.1", port = 1 }
    nb.configure({ log = "none", backend_servers = { twice, twice } })
    local warning = "backend_servers[2]: imap://127.0.0.1:1 is listed twice: it is [1] as well"
    assert.are.same({ warning }, nb.status().warnings)
    local line = "    - { protocol: imap, host: 127.0.0.1, port: 1 }\n"
    write("backend_server_monitoring:\n  log: none\n  backend_servers:\n" .. line .. line)
    nb.configure(path)
    warning = path .. ": line 5: backend_server_monitoring." .. warning
    assert.are.same({ warning }, nb.status().warnings)
    assert.are.equal(warning .. "\n", from_environment(path,
      "nb.get_backend_servers() print(table.concat(nb.status().warnings, '|'))"))
  end)

  it("that is none by the rules is warned of in status() and the log", function()
    local warning = "backend_servers[1].test_username: is not used: without deep_check nothing logs in"
    local server = {
      protocol = "imap", host = "127.0.0.1", port = 1, test_username = "u", test_password = "secret",
    }
    nb.configure({ log = log, backend_servers = { server } })
    assert.are.same({ warning }, nb.status().warnings)
    local line = 'warning event=configuration_warning reason="%s"\n'
    local function times(text)
      return select(2, content(log):gsub(text:gsub("%p", "%%%0"), ""))
    end
    assert.are.equal(1, times(line:format(warning)))
    -- The same configuration again logs nothing new.
    nb.configure({ log = log, backend_servers = { server } })
    assert.are.equal(1, times(line:format(warning)))

    nb.configure(write(([[
backend_server_monitoring:
  log:	%s
  backend_servers:
    - protocol: imap
      host: 127.0.0.1
      port: 1
      request_uri: /
]]):format(log)))
    warning = path .. ": line 7: backend_server_monitoring.backend_servers[1].request_uri: has no effect: "
      .. "it is for http alone"
    assert.are.same({ warning }, nb.status().warnings)
    assert.are.equal(1, times(line:format(warning)))

    nb.configure({ log = "none", backend_servers = {} })
    assert.are.same({}, nb.status().warnings)
  end)
end)
