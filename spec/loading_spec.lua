-- How the module gets into a Lua state: names, globals, repeated loads, closing.

local interpreter = require("spec.support.interpreter")
local nb = require("nauthilus_backend")

-- Runs a script that must end well and print nothing but "ok".
local function runs(script, options)
  local printed, well = interpreter.run(script, options)
  assert.equal("ok\n", printed)
  assert.is_true(well)
end

describe("the module", function()
  it("is the one that was just built", function()
    local path = interpreter.module_path()
    assert.matches("/build/" .. interpreter.abi .. "/nauthilus_backend%.so$", path)
    local pipe = assert(io.popen("find src Cargo.toml Cargo.lock build.rs -newer '" .. path .. "'"))
    local newer = pipe:read("*a")
    pipe:close()
    assert.equal("", newer)
  end)

  it("says its version as Cargo.toml does", function()
    local version
    for line in io.lines("Cargo.toml") do
      version = version or line:match('^version = "(.*)"')
    end
    assert.equal("nauthilus_backend " .. version, nb._VERSION)
  end)

  it("gives the same table and class each time it is loaded", function()
    local class, default = nauthilus_backend_result, nb.context()
    package.loaded.nauthilus_backend = nil
    package.loaded.nauthilus_backend_result = nil
    local again = require("nauthilus_backend")
    assert.equal(nb, again)
    assert.equal(class, require("nauthilus_backend_result"))
    assert.equal(default, again.context())
  end)

  it("gives its class by the dotted name too", function()
    assert.equal(nauthilus_backend_result, require("nauthilus_backend.result"))
  end)

  it("is there for scripts after a preload", function()
    runs([[
      dynamic_loader("nauthilus_backend")
      local nauthilus_backend = require("nauthilus_backend")
      local server = { ip = "10.0.0.1", port = 993 }
      nauthilus_backend.select_backend_server(server.ip, server.port)
      local b = nauthilus_backend_result:new()
      local attributes = {}
      attributes["hostip"] = server.ip
      b:attributes(attributes)
      nauthilus_backend.apply_backend_result(b)
      nauthilus_backend.remove_from_backend_result({ "Proxy-Host" })
      assert(nauthilus_backend.context():headers()["X-Nauthilus-Hostip"] == "10.0.0.1")
      assert(nauthilus_backend.context():headers()["Auth-Server"] == "10.0.0.1")
      print("ok")
    ]], "-l nauthilus_backend")
  end)

  it("defines three globals and no more, past any guard", function()
    runs([[
      local before = {}
      for name in pairs(_G) do before[name] = true end
      setmetatable(_G, {
        __newindex = function(_, name) error("global written: " .. tostring(name), 2) end,
        __index = function(_, name) error("global read: " .. tostring(name), 2) end,
      })
      local nb = require("nauthilus_backend")
      local new = {}
      for name in pairs(_G) do
        if not before[name] then new[#new + 1] = name end
      end
      table.sort(new)
      assert(table.concat(new, " ") == "dynamic_loader nauthilus_backend nauthilus_backend_result")
      assert(nauthilus_backend == nb)
      -- Nor does any use of it touch a global.
      local b = nauthilus_backend_result.new()
      b:attributes({ a = "b" })
      nb.apply_backend_result(b)
      nb.select_backend_server("::1", "993")
      pcall(nb.select_backend_server, nil)
      pcall(nb.select_backend_server, "::1", 1.5)
      pcall(function() b.x = 1 end)
      nb.with_context(nb.new_context(), function() end)
      print("ok")
    ]])
  end)

  it("leaves globals and preloads of those names alone", function()
    runs([[
      dynamic_loader, nauthilus_backend_result, nauthilus_backend = "mine", false, 7
      package.preload.nauthilus_backend_result = function() return "mine too" end
      require("nauthilus_backend")
      assert(dynamic_loader == "mine" and nauthilus_backend_result == false and nauthilus_backend == 7)
      assert(require("nauthilus_backend_result") == "mine too")
      print("ok")
    ]])
  end)

  it("works when a script replaces the standard library", function()
    runs([[
      local nb, G, output, next = require("nauthilus_backend"), _G, io.stdout, next
      local class, assert, pcall, find, ipairs = nauthilus_backend_result, assert, pcall, string.find, ipairs
      nb.configure({ log = "none", backend_servers = {} })
      for _, library in next, { string, table, math, coroutine, debug, package } do
        for name in next, library do
          if name ~= "preload" and name ~= "loaded" then library[name] = nil end
        end
      end
      for name in next, G do
        if name ~= "_G" then G[name] = nil end
      end
      local b = class.new()
      b:attributes({ a = { "b", "c" } })
      nb.apply_backend_result(b)
      nb.select_backend_server("imap.example.org", "993")
      assert(nb.context():headers()["X-Nauthilus-A"] == "b,c")
      local ok, message = pcall(nb.select_backend_server, "::1", 70000)
      assert(message == "bad argument #2 to 'select_backend_server' (integer 1..65535 expected, got 70000)")
      assert(not pcall(function() return b.zzz end))
      assert(nb.with_context(nb.new_context(), function() return 7 end) == 7)
      local options = { reason = "moved", by = "me" }
      for _, call in ipairs({
        function() assert(nb.report_failure("[::1]", 143, "refused") == false) end,
        function() return nb.move_user("user", "node", options) end,
        function() return nb.forget_user("user", options) end,
        function() return nb.hold_user("user", "1m", options) end,
        function() return nb.flush_node("node", options) end,
        function() return nb.set_target_state("imap://[::1]:143", "drain", options) end,
        function() return nb.set_node_weight("node", 1, options) end,
        function() return nb.status_page({ title = "Servers" }) end,
        function() return nb.status_json(), nb.metrics(), nb.events(), nb.nodes() end,
        function() return nb.route("user"), nb.explain_route("user") end,
        function() return nb.start_check("::1", 1):cancel() end,
        function() return nb.check_backend_connection("[::1]x", 1) end,
        function() return nb.wait_ready(0.01) end,
      }) do
        local ok, problem = pcall(call)
        assert(ok or not find(problem, "attempt to", 1, true), problem)
      end
      nb.stop()
      output:write("ok\n")
    ]])
  end)

  for _, name in ipairs({ "coroutine", "debug", "io", "math", "os", "package" }) do
    it("can be loaded by a host without the library " .. name, function()
      local script = ([[
        local path = package.cpath:gsub("%?", "nauthilus_backend")
        local load = assert(package.loadlib(path, "luaopen_nauthilus_backend"))
        package.loaded.NAME, NAME = nil, nil
        local nb = load("nauthilus_backend")
        nb.configure({ log = "none", backend_servers = {} })
        assert(#nb.get_backend_servers() == 0 and nb.metrics() and nb.status_json() and nb.status_page())
        assert(nb.with_context(nb.new_context(), function() return 7 end) == 7)
        nb.select_backend_server("::1", 143)
        nb.stop()
        print("ok")
      ]]):gsub("NAME", name)
      runs(script)
    end)
  end

  it("defines its names for the whole state, also where the thread that loads it has globals of its own", function()
    -- Since Lua 5.2 threads share their globals.
    if _VERSION ~= "Lua 5.1" then
      return
    end
    -- As nginx's Lua module makes the globals of a request with a LuaJIT that is not OpenResty's.
    runs([[
      local own = setmetatable({}, { __index = _G })
      own._G = own
      local function handler() return require("nauthilus_backend") end
      local thread = coroutine.create(handler)
      debug.setfenv(thread, own)
      setfenv(handler, own)
      local ok, nb = coroutine.resume(thread)
      assert(ok, nb)
      assert(rawget(own, "nauthilus_backend") == nil)
      assert(rawget(_G, "nauthilus_backend") == nb and rawget(_G, "dynamic_loader"))
      assert(require("nauthilus_backend_result") == rawget(_G, "nauthilus_backend_result"))
      print("ok")
    ]])
  end)

  it("can be loaded first in a coroutine that is collected", function()
    runs([[
      local nb = coroutine.wrap(function() return require("nauthilus_backend") end)()
      for _ = 1, 20 do
        collectgarbage()
        local wide = {}
        for i = 1, 100 do wide["a" .. i] = i end
        local b = nauthilus_backend_result.new()
        b:attributes(wide)
        nb.apply_backend_result(b)
        pcall(function() b.authentcated = true end)
        nb.select_backend_server("imap.example.org", 1)
      end
      print("ok")
    ]])
  end)

  it("lets a state close with results and contexts alive", function()
    runs([[
      local nb = require("nauthilus_backend")
      b = nauthilus_backend_result.new()
      b:attributes({ a = "b" })
      c = nb.new_context()
      c:set_base(b)
      nb.apply_backend_result(b)
      print("ok")
    ]])
  end)

  it("is never unmapped", function()
    local pipe = assert(io.popen("readelf -d '" .. interpreter.module_path() .. "'"))
    local flags = pipe:read("*a")
    pipe:close()
    assert.matches("FLAGS_1.-NODELETE", flags)
  end)
end)

describe("dynamic_loader", function()
  it("makes a following require of our names work", function()
    runs([[
      require("nauthilus_backend")
      for _, name in ipairs({ "nauthilus_backend", "nauthilus_backend_result" }) do
        package.loaded[name], package.preload[name] = nil, nil
      end
      package.path, package.cpath = "", ""
      assert(not pcall(require, "nauthilus_backend"))
      dynamic_loader("nauthilus_backend")
      dynamic_loader("nauthilus_backend_result")
      assert(require("nauthilus_backend").select_backend_server)
      assert(require("nauthilus_backend_result") == nauthilus_backend_result)
      print("ok")
    ]])
  end)

  it("does nothing for any other name", function()
    runs([[
      require("nauthilus_backend")
      dynamic_loader("nauthilus_util")
      local ok, message = pcall(require, "nauthilus_util")
      assert(not ok and message:find("module 'nauthilus_util' not found", 1, true))
      print("ok")
    ]])
  end)
end)
