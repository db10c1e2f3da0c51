-- tls_cert_file, tls_key_file and tls_min_version: read and checked by configure, and shown to a
-- server that requires a certificate of its clients, in each version of TLS, resumed sessions too.

local engine = require("spec.support.engine")
local files = require("spec.support.files")
local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")

describe("a client certificate", function()
  local content = files.content
  local nb, world, folder, ca, cert, key
  -- A handshake with a server in Python, on a busy machine.
  local patient = { connect_timeout = "10s", tls_timeout = "10s" }

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    folder = world:folder()
    ca, cert, key = world:certificate("ca.crt"), world:certificate("good.crt"), world:certificate("good.key")
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  local function write(name, text)
    return files.write(folder .. "/" .. name, text)
  end

  local function openssl(name, arguments)
    assert(os.execute(("openssl %s -out %s/%s 2>/dev/null"):format(arguments, folder, name)))
    return folder .. "/" .. name
  end

  local function settings(overrides)
    local all = { tls = true, tls_ca_file = ca, tls_cert_file = cert, tls_key_file = key }
    for name, value in pairs(overrides or {}) do
      all[name] = value or nil
    end
    return all
  end

  -- The configuration as a table and as the path of a YAML file.
  local function both(port, target, body)
    local service = { log = "none", connect_interval = "50ms", fast_interval = "50ms" }
    local lines = { "backend_server_monitoring:", "  backend_servers:", "    - protocol: imap", "      host: 127.0.0.1",
      "      port: " .. port }
    for name, value in pairs(target) do
      local text = type(value) == "string" and '"' .. value .. '"' or tostring(value)
      lines[#lines + 1] = ("      %s: %s"):format(name, text)
    end
    for name, value in pairs(service) do
      table.insert(lines, 2, ("  %s: %s"):format(name, value))
    end
    service.backend_servers = { engine.imap(port, target) }
    for _, given in ipairs({ service, write("config.yml", table.concat(lines, "\n") .. "\n") }) do
      nb.stop()
      body(given)
    end
  end

  for _, version in ipairs({ "1.2", "1.3" }) do
    it("is shown to a server that requires one in TLS " .. version .. ", and its sessions are resumed", function()
      local server = world:open({ tls = "good", clients = "ca", tls_version = version })
      both(server.port, settings({ tls_min_version = version }), function(config)
        nb.configure(config)
        assert.is_true(nb.wait_ready(30))
        local seen = engine.target(nb, server.port)
        assert.are.equal("alive", seen.verdict, seen.last_error)
        engine.await_probes(nb, server.port, 4)
        assert.are.equal("alive", engine.target(nb, server.port).verdict)
      end)
      server:await("resumed", 2)
      local options = settings({ tls = false })
      -- A configured server lends its certificate to a check of its address.
      assert.is_nil(nb.check_backend_connection("127.0.0.1", server.port, false, true))
      assert.is_nil(nb.check_backend_connection("127.0.0.1", server.port, false, true, options))
      nb.configure(engine.config({}))
      assert.is_nil(nb.check_backend_connection("127.0.0.1", server.port, false, true, options))
      local check = nb.start_check("127.0.0.1", server.port, false, true, options)
      assert.is_true(check:wait(30))
      assert.is_nil(check:result())
    end)

    it("is named where a server requires it in TLS " .. version .. " and none or another is configured", function()
      local server = world:open({ tls = "good", clients = "ca", tls_version = version })
      nb.configure(engine.config({}))
      local function reason(options)
        return nb.check_backend_connection("127.0.0.1", server.port, false, true, options)
      end
      assert.matches("^tls: .*a client certificate %(tls_cert_file, tls_key_file%)$",
        reason({ tls_ca_file = ca }))
      local unknown = reason(settings({
        tls = false, tls_cert_file = world:certificate("selfsigned.crt"),
        tls_key_file = world:certificate("selfsigned.key"),
      }))
      assert.matches("^tls: the server refuses the client certificate of tls_cert_file: .*unknown ca$", unknown)
    end)
  end

  it("is refused with its key, its file and the reason where it cannot be used", function()
    local plain = content(key)
    local encrypted = openssl("encrypted.key", "pkcs8 -topk8 -passout pass:hunter2 -in " .. key)
    local old = openssl("old.key", "ec -aes128 -passout pass:hunter2 -in " .. key)
    assert(os.execute("mkfifo " .. folder .. "/fifo"))
    local weak = folder .. "/weak"
    assert(os.execute(("openssl req -x509 -newkey rsa:512 -nodes -subj /CN=weak -keyout %s.key -out %s.crt 2>/dev/null")
      :format(weak, weak)))
    local wrong = {
      { { tls_key_file = false }, "tls_cert_file: tls_key_file expected beside it, got nothing" },
      { { tls_cert_file = false }, "tls_key_file: tls_cert_file expected beside it, got nothing" },
      { { tls_cert_file = "" }, "tls_cert_file: path of a file expected" },
      { { tls_cert_file = folder .. "/no" }, "tls_cert_file: %s: no such file", folder .. "/no" },
      { { tls_key_file = folder .. "/no" }, "tls_key_file: %s: no such file", folder .. "/no" },
      { { tls_cert_file = folder }, "tls_cert_file: %s: a file expected, got a directory", folder },
      { { tls_key_file = folder .. "/fifo" }, "tls_key_file: %s: a regular file expected", folder .. "/fifo" },
      { { tls_cert_file = key }, "tls_cert_file: %s: certificates in PEM form expected, got a private key", key },
      { { tls_key_file = cert }, "tls_key_file: %s: a private key in PEM form expected, got a certificate", cert },
      { { tls_key_file = write("empty", "") },
        "tls_key_file: %s: a private key in PEM form expected, got an empty file", folder .. "/empty" },
      { { tls_key_file = "/etc/passwd" },
        "tls_key_file: %s: a private key in PEM form expected, got a file without any", "/etc/passwd" },
      { { tls_key_file = write("cut", plain:sub(1, 60) .. "\n" .. plain:match("%-%-%-%-%-END[^\n]*\n$")) },
        "tls_key_file: %s: the private key in it cannot be read: ", folder .. "/cut" },
      { { tls_key_file = encrypted },
        "tls_key_file: %s: a private key without a passphrase expected, got an encrypted one", encrypted },
      { { tls_key_file = old },
        "tls_key_file: %s: a private key without a passphrase expected, got an encrypted one", old },
      { { tls_key_file = world:certificate("other.key") },
        "tls_key_file: %s: the key of the certificate in tls_cert_file (" .. cert .. ") expected, got another one",
        world:certificate("other.key") },
      { { tls_cert_file = weak .. ".crt", tls_key_file = weak .. ".key" },
        "tls_cert_file: %s: OpenSSL refuses the certificate: ee key too small", weak .. ".crt" },
      { { tls_min_version = "1.1" }, 'tls_min_version: one of 1.2, 1.3 expected, got ' },
      { { tls_min_version = 1 }, "tls_min_version: one of 1.2, 1.3 expected, got number 1" },
    }
    local server = world:open()
    nb.configure(engine.config({ engine.imap(server.port) }))
    for _, case in ipairs(wrong) do
      local wanted = case[2]:gsub("%%s", function() return case[3] end)
      both(1, settings(case[1]), function(config)
        local ok, problem = pcall(nb.configure, config)
        assert.is_false(ok, wanted)
        assert.is_truthy(problem:find("backend_servers[1]." .. wanted, 1, true), problem .. "\nwanted: " .. wanted)
        assert.is_nil(problem:find("hunter2", 1, true))
        assert.are.equal(server.port, tonumber(nb.status().targets[1].key:match(":(%d+)$")))
      end)
      -- What a check cannot read it says itself, and misuse raises.
      local ok, raised = pcall(nb.check_backend_connection, "127.0.0.1", server.port, false, true, settings(case[1]))
      local told = tostring(raised)
      assert.is_truthy(told:find(ok and wanted:gsub("^(tls_%a+_file):", "tls: %1") or wanted, 1, true), told)
    end
  end)

  it("may be one file with its key, in any order and with its issuers", function()
    local server = world:open({ tls = "good", clients = "ca" })
    local text = content(key) .. "a comment\n" .. content(cert) .. content(ca)
    local all = write("all.pem", text)
    local target = engine.imap(server.port, settings({ tls_cert_file = all, tls_key_file = all }))
    nb.configure(engine.config({ target }, patient))
    assert.is_true(nb.wait_ready(30))
    assert.are.equal("alive", engine.target(nb, server.port).verdict, engine.target(nb, server.port).last_error)
  end)

  it("is read by configure alone, from where relative paths begin then", function()
    local server = world:open({ tls = "good", clients = "ca" })
    local program = ([[
      local nb = require("nauthilus_backend")
      nb.configure({
        log = "none", connect_interval = "20ms", fast_interval = "20ms", tls_full_handshake_interval = 0,
        backend_servers = { { protocol = "imap", host = "127.0.0.1", port = %d, tls = true, tls_ca_file = %q,
          tls_cert_file = "client.crt", tls_key_file = "client.key" } },
      })
      os.remove("client.crt")
      os.remove("client.key")
      assert(nb.wait_ready(30))
      local target
      repeat
        target = nb.status().targets[1]
      until target.probes > 3
      print(target.verdict, target.last_error)
    ]]):format(server.port, ca)
    write("client.crt", content(cert))
    write("client.key", content(key))
    local output, well = interpreter.run(program, nil, "env -C " .. folder)
    assert.is_true(well, output)
    assert.are.equal("alive\tnil\n", output)
  end)

  it("its key is in no status, log or error", function()
    local server = world:open({ tls = "good", clients = "ca" })
    local log = folder .. "/log"
    nb.configure(engine.config({ engine.imap(server.port, settings()) }, { log = log, cert_warn = "365d" }))
    assert.is_true(nb.wait_ready(30))
    server:close()
    engine.await_verdict(nb, server.port, "dead")
    engine.eventually("the log line", function() return content(log):find("target_down", 1, true) end)
    local secret = content(key):match("%-%-\n(%S+)")
    assert.is_true(#secret > 40)
    for _, text in ipairs({ content(log), engine.all_text(nb.status()) }) do
      assert.is_nil(text:find(secret, 1, true))
    end
  end)

  it("what a full handshake showed is in the status of each process, and of a check", function()
    local newer = world:open({ tls = "good", tls_version = "1.3" })
    local older = world:open({ tls = "good", tls_version = "1.2" })
    local plain = world:open()
    local targets = {}
    for index, server in ipairs({ newer, older, plain }) do
      targets[index] = engine.imap(server.port, server ~= plain and { tls = true, tls_ca_file = ca } or {})
    end
    local state = folder .. "/state"
    local function assert_shown(tls, version)
      assert.are.equal("TLSv" .. version, tls.protocol)
      assert.matches("^%u[%w_-]+$", tls.cipher)
      assert.matches("^%w+$", tls.group)
      assert.is_true(math.abs(tls.at - os.time()) < 120)
      assert.are.equal(1, tls.certificates)
      local leaf = tls.chain[1]
      assert.are.same({ "CN=good", "CN=Test authority" }, { leaf.subject, leaf.issuer })
      assert.are.same({ "localhost", "127.0.0.1", "::1" }, leaf.names)
      assert.is_true(leaf.expiry - os.time() > 20 * 86400)
    end
    local function assert_all(status)
      assert_shown(status.targets[1].tls, "1.3")
      assert_shown(status.targets[2].tls, "1.2")
      assert.is_nil(status.targets[3].tls)
    end
    nb.configure(engine.config(targets, { state_file = state, connect_timeout = "10s", tls_timeout = "10s" }))
    assert.is_true(nb.wait_ready(30))
    -- It is told just after the verdict.
    engine.eventually("both handshakes are told", function()
      local shown = nb.status().targets
      return shown[1].tls and shown[2].tls
    end)
    assert_all(nb.status())
    -- Later handshakes resume the session and show no certificate.
    engine.await_probes(nb, newer.port, 3)
    newer:await("resumed", 1)
    assert_all(nb.status())
    assert.is_truthy(nb.status_json():find('"subject":"CN=good"', 1, true))
    -- A process that is no child of this one reads it from the state file.
    local program = ([[
      local nb = require("nauthilus_backend")
      nb.configure({
        log = "none", connect_interval = "50ms", fast_interval = "50ms", connect_timeout = "10s",
        tls_timeout = "10s", state_file = %q,
        backend_servers = { { protocol = "imap", host = "127.0.0.1", port = %d, tls = true, tls_ca_file = %q } },
      })
      nb.start()
      local tls, deadline = nil, os.time() + 20
      repeat
        tls = nb.status().targets[1].tls
      until tls or os.time() > deadline
      print(nb.status().probing, tls and tls.chain[1].subject)
    ]]):format(state, newer.port, ca)
    local output, well = interpreter.run(program)
    assert.is_true(well, output)
    assert.are.equal("false\tCN=good\n", output)

    local check = nb.start_check("127.0.0.1", older.port, false, true, { tls_ca_file = ca })
    assert.is_true(check:wait(30))
    assert_shown(check:tls(), "1.2")
    local without = nb.start_check("127.0.0.1", plain.port)
    assert.is_true(without:wait(30))
    assert.is_nil(without:tls())
  end)

  it("tls_min_version 1.3 makes a server of TLS 1.2 dead, also as a number", function()
    local server = world:open({ tls = "good", tls_version = "1.2" })
    for _, version in ipairs({ "1.3", 1.3 }) do
      both(server.port, { tls = true, tls_ca_file = ca, tls_min_version = version }, function(config)
        nb.configure(config)
        assert.is_true(nb.wait_ready(30))
        local seen = engine.target(nb, server.port)
        assert.are.equal("dead", seen.verdict)
        assert.are.equal("tls: the server offers no TLS version of 1.3 (tls_min_version)", seen.last_error)
      end)
    end
    for _, version in ipairs({ "1.2", 1.2 }) do
      local options = { tls_ca_file = ca, tls_min_version = version }
      assert.is_nil(nb.check_backend_connection("127.0.0.1", server.port, false, true, options))
    end
  end)
end)
