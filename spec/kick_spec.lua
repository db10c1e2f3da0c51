-- examples/openresty/kick.lua in front of a doveadm that only lists sessions, with bindings in a real Redis.

local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")
local redis_servers = require("spec.support.redis")

-- What the script needs of nginx, cjson and doveadm's HTTP API: doveadm lists sessions of all users on each node, and
-- the names of those that it has to kick are printed.
local STAND_INS = [[
  local users, asked = { "zoe", "moved", "stays" }, nil
  package.preload["cjson.safe"] = function()
    return {
      encode = function(command) return command[1][1] .. " " .. ((command[1][2].mask or {})[1] or "") end,
      decode = function()
        local rows = {}
        for index, user in ipairs(users) do
          rows[index] = { username = user }
        end
        return { { "doveadmResponse", rows, "kick" } }
      end,
    }
  end
  local kept, later = {}, nil
  ngx = {
    worker = { id = function() return 0 end, exiting = function() return false end },
    timer = { at = function(_, run) later = run return true end },
    log = function() end,
    encode_base64 = function(text) return text end,
    shared = { backend_kicks = {
      get = function(_, key) return kept[key] end,
      set = function(_, key, value) kept[key] = value end,
      add = function(_, key, value) local is_new = kept[key] == nil kept[key] = value return is_new end,
      delete = function(_, key) kept[key] = nil end,
    } },
    socket = { tcp = function()
      return {
        settimeouts = function() end,
        connect = function() return true end,
        send = function(_, parts) asked = parts[#parts] end,
        receive = function()
          io.write((asked:gsub("^who.*", "")))
          return "HTTP/1.0 200 OK\r\n\r\n"
        end,
        close = function() end,
      }
    end },
  }
  local kick = require("kick")
  kick.configure({ key_file = KEY_FILE, nodes = { v1 = "127.0.0.1:1", v2 = "127.0.0.1:2" } })
  kick.start()
  later()
]]

describe("the example that ends sessions of users who were moved", function()
  it("leaves those alone who are bound in a pool with a name", function()
    local world, redis = peers.new(), redis_servers.new()
    finally(function()
      redis:quit()
      world:stop()
    end)
    local port, key_file = world:open().port, redis:file("key", { text = "secret\n" }).path
    local url = "redis://127.0.0.1:" .. redis:start("one").port
    local printed, well = interpreter.run(string.format([[
      package.path = "examples/openresty/?.lua;" .. package.path
      local KEY_FILE = %q
      local nb = require("nauthilus_backend")
      local servers = {}
      for node, pool in pairs({ a = false, b = false, v1 = "vip", v2 = "vip" }) do
        servers[#servers + 1] = { protocol = "imap", host = "127.0.0.1", port = %d, node = node,
          pool = pool or nil }
      end
      nb.configure({ backend_servers = servers, log = "none", cluster = { redis = %q, timeout = "10s", min_stay = 0 } })
      nb.wait_ready(60)
      for _, user in ipairs({ "zoe", "moved", "stays" }) do
        assert(nb.move_user(user, "v1"))
      end
      assert(nb.move_user("moved", "v2"))
    ]], key_file, port, url) .. STAND_INS)
    assert.is_true(well, printed)
    assert.are.equal("kick moved", printed)
  end)
end)
