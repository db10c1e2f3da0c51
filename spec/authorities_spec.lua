-- tls_ca_file: opened, read and checked when it is configured.

local engine = require("spec.support.engine")
local files = require("spec.support.files")
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
