-- What is said of a configuration that is refused, and of one that is hardly what was meant, from a
-- Lua table and from a YAML file.

local files = require("spec.support.files")

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

  local function ends(wanted, text)
    assert.are.equal(wanted, text:sub(-#wanted))
  end

  -- The same key of a server as a table and as YAML.
  local function of_server(key, value, written, problem)
    local server = { protocol = "imap", host = "127.0.0.1", port = 1 }
    server[key] = value
    assert.are.equal("backend_servers[1]." .. problem, refusal({ log = "none", backend_servers = { server } }))
    local host = key == "host" and "" or "      host: 127.0.0.1\n"
    local text = ("backend_server_monitoring:\n  log: none\n  backend_servers:\n    - protocol: imap\n      %s: %s\n%s")
    assert.are.equal(path .. ": line 5: backend_server_monitoring.backend_servers[1]." .. problem,
      refusal(write(text:format(key, written, host))))
  end

  it("is named as it was made", function()
    of_server("host", "[::1]:993", '"[::1]:993"',
      'host: IPv4, IPv6 or host name expected, got "[::1]:993" (the port has its own key)')
    of_server("proxy_protocol", true, "true", "proxy_protocol: unknown key; did you mean haproxy_v2?")
    of_server("timeout", 1, "1",
      "timeout: unknown key; did you mean connect_timeout, tls_timeout or deep_timeout?")
    of_server("enabled", true, "true", "enabled: unknown key")
    of_server("tls", "yes", "yes", 'tls: boolean expected, got string "yes" (write true)')
    of_server("tls", "starttls", "starttls", 'tls: boolean expected, got "starttls" (write tls_mode: starttls)')
    of_server("deep_timeout", "10 s", "10 s",
      'deep_timeout: duration 1ms..5m expected, got "10 s" (write it without a space)')
  end)

  it("in the section's name suggests the right one", function()
    local problem = "backend_servers_monitoring: unknown section; did you mean backend_server_monitoring?"
    assert.are.equal(problem, refusal({ backend_servers_monitoring = { backend_servers = {} } }))
    assert.are.equal(path .. ": line 2: " .. problem,
      refusal(write("a: b\nbackend_servers_monitoring: {backend_servers: []}\n")))
    assert.are.equal(path .. ": line 1: backend_server_monitoring: table expected, got nothing",
      refusal(write("backend_server_monitoring:\n")))
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
      local found = refusal(write(text))
      assert.is_truthy(found:find(path .. ": line 3: backend_server_monitoring." .. problem, 1, true), found)
    end
  end)

  it("that is none by the rules is warned of in status() and the log", function()
    local warning = "backend_servers[1].test_username: is not used: without deep_check nothing logs in"
    local server = {
      protocol = "imap", host = "127.0.0.1", port = 1, test_username = "u", test_password = "secret",
    }
    nb.configure({ log = log, backend_servers = { server } })
    assert.are.same({ warning }, nb.status().warnings)
    local line = 'warning event=configuration_warning reason="%s"\n'
    ends(line:format(warning), content(log))
    -- The same configuration says nothing new.
    local before = content(log)
    nb.configure({ log = log, backend_servers = { server } })
    assert.are.equal(before, content(log))

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
    ends(line:format(warning), content(log))

    nb.configure({ log = "none", backend_servers = {} })
    assert.are.same({}, nb.status().warnings)
  end)
end)
