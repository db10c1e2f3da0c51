-- tls_ca_file: opened, read and checked when it is configured.

local engine = require("spec.support.engine")
local files = require("spec.support.files")
local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")

describe("tls_ca_file", function()
  local content = files.content
  local nb, world, server, folder, ca

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    server = world:open({ tls = "good" })
    ca = world:certificate("ca.crt")
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
    os.execute("rm -rf " .. folder)
  end)

  local function write(name, text)
    return files.write(folder .. "/" .. name, text)
  end

  local function config(path)
    return engine.config({ engine.imap(1), engine.imap(server.port, { tls = true, tls_ca_file = path }) })
  end

  local function become(verdict, probes)
    return engine.eventually(verdict, function()
      local seen = nb.status().targets[2]
      return seen and seen.verdict == verdict and seen.probes >= (probes or 0) and seen
    end)
  end

  it("is refused with its key and the reason where it holds no authority", function()
    nb.configure(config(ca))
    assert(os.execute("mkfifo " .. folder .. "/fifo"))
    local key = content(world:certificate("good.key"))
    local broken = content(ca):gsub("\n(%w)", "\n-%1", 3)
    for path, reason in pairs({
      [folder .. "/missing"] = "no such file",
      [folder] = "a file expected, got a directory",
      [folder .. "/fifo"] = "a regular file expected, got a device, pipe or socket",
      ["/dev/null"] = "a regular file expected, got a device, pipe or socket",
      ["/etc/passwd"] = "certificates in PEM form expected, got a file without any",
      [write("empty", "")] = "certificates in PEM form expected, got an empty file",
      [write("key", key)] = "certificates in PEM form expected, got a private key",
      [write("broken", broken)] = "a certificate in it cannot be read: ",
      [write("broken-later", content(ca) .. broken)] = "a certificate in it cannot be read: ",
    }) do
      local ok, problem = pcall(nb.configure, config(path))
      assert.is_false(ok, path)
      local wanted = "backend_servers[2].tls_ca_file: " .. path .. ": " .. reason
      assert.is_truthy(problem:find(wanted, 1, true), problem)
      assert.is_nil(problem:find("unknown", 1, true), problem)
      -- The old configuration stays.
      assert.are.equal(server.port, tonumber(nb.status().targets[2].key:match(":(%d+)$")))
    end
    assert.is_truthy(become("alive"))
  end)

  it("counts as it was until the next configure, which may be an identical one", function()
    local path = write("changing", content(ca))
    nb.configure(config(path))
    assert.is_truthy(become("alive"))
    local seen = nb.status().targets[2].probes
    write("changing", content(world:certificate("selfsigned.crt")))
    assert.is_truthy(become("alive", seen + 3))
    assert.is_nil(nb.check_backend_connection("127.0.0.1", server.port, false, true, { tls_ca_file = path }))
    nb.configure(config(path))
    local dead = become("dead")
    assert.matches("^tls: certificate not trusted: ", dead and dead.last_error)
    -- What cannot be used changes nothing.
    os.remove(path)
    assert.is_false(pcall(nb.configure, config(path)))
    assert.matches("certificate not trusted",
      nb.check_backend_connection("127.0.0.1", server.port, false, true, { tls_ca_file = path }))
    write("changing", content(ca))
    nb.configure(config(path))
    assert.is_truthy(become("alive"))
  end)

  it("may hold several authorities, and other text between them", function()
    local other = content(world:certificate("selfsigned.crt"))
    local text = "a comment\n" .. other .. "another\n\n" .. content(ca) .. "end\n"
    nb.configure(config(write("several", text)))
    assert.is_truthy(become("alive"))
  end)

  it("is named as well by a check on demand that cannot use it", function()
    for path, reason in pairs({
      [folder .. "/missing"] = "no such file",
      [folder .. "/fifo"] = "a regular file expected",
    }) do
      local problem = nb.check_backend_connection("127.0.0.1", server.port, false, true, { tls_ca_file = path })
      assert.is_truthy(problem:find("tls: tls_ca_file " .. path .. ": " .. reason, 1, true), problem)
    end
  end)
end)

describe("the system's authorities", function()
  local world, server, folder

  lazy_setup(function()
    world = peers.new()
    server = world:open({ tls = "good" })
  end)

  lazy_teardown(function()
    world:stop()
  end)

  before_each(function()
    folder = os.tmpname()
    os.remove(folder)
    assert(os.execute("mkdir " .. folder))
  end)

  after_each(function()
    os.execute("rm -rf " .. folder)
  end)

  -- Configures a target that the system's authorities verify, and prints its verdict, its last error and the
  -- warnings. `file` and the folder are the system's places.
  local function verdict(file)
    local script = ([[
      local nb = require("nauthilus_backend")
      nb.configure({ log = "none", connect_timeout = "10s", tls_timeout = "10s", backend_servers = {
        { protocol = "imap", host = "127.0.0.1", port = %d, tls = true } } })
      assert(nb.wait_ready(60))
      local status = nb.status()
      print(status.targets[1].verdict, status.targets[1].last_error)
      for _, warning in ipairs(status.warnings) do print(warning) end
      os.exit(0)
    ]]):format(server.port)
    local environment = ("SSL_CERT_FILE=%s SSL_CERT_DIR=%s"):format(file or folder .. "/none", folder)
    local printed, ended_well = interpreter.run(script, nil, environment)
    assert.is_true(ended_well, printed)
    return printed
  end

  it("are used but for files that are broken, with a warning that names the first", function()
    local ca = files.content(world:certificate("ca.crt"))
    local other = files.content(world:certificate("selfsigned.crt"))
    files.write(folder .. "/00000001.0", ca)
    files.write(folder .. "/00000002.0", "")
    assert.are.equal("alive\tnil\n", verdict())
    for _, broken in ipairs({ other:sub(1, #other - 100), (other:gsub("\n(%w)", "\n-%1", 3)) }) do
      files.write(folder .. "/00000000.0", broken)
      local printed = verdict()
      local warning = "the system's CAs: left out is " .. folder .. "/00000000.0: a certificate in it cannot be read: "
      assert.are.equal("alive\tnil\n" .. warning, printed:sub(1, #warning + 10))
      assert.is_nil(printed:find("more", 1, true), printed)
    end
    files.write(folder .. "/00000003.0", "-----BEGIN CERTIFICATE-----\n")
    assert.matches("00000000%.0: [^\n]* %(and 1 more%)\n$", verdict())
    -- One that was cut off does not take those behind it along.
    os.remove(folder .. "/00000001.0")
    local bundle = files.write(folder .. "/bundle", other:sub(1, #other - 100) .. "\n" .. ca)
    assert.matches("^alive\tnil\nthe system's CAs: left out is [^\n]*/bundle: ", verdict(bundle))
  end)

  it("are missed with a warning where there are none", function()
    local printed = verdict()
    assert.matches("^dead\ttls: certificate not trusted: ", printed)
    local places = folder .. "/none, " .. folder
    local warning = "the system's CAs: there are none (" .. places .. "), so that no certificate is trusted"
    assert.is_truthy(printed:find(warning, 1, true), printed)
  end)
end)
