-- A hook that interrupts the module between any two instructions: it raises an error, or lets other coroutines run and
-- call the module, as HAProxy's does. Each test tries it at every instruction of a call.

local interpreter = require("spec.support.interpreter")

local PRELUDE = [[
  local nb = require("nauthilus_backend")
  local class = nauthilus_backend_result
  -- Compiled code calls no hook.
  if jit then jit.off() end

  -- Calls run() with a hook that calls interrupt() once, at the n-th instruction, for n = 1, 2, … until run() is over
  -- before. After each of these calls check(n, ok, message) gets what pcall(run) returned.
  local function interrupted(run, interrupt, check)
    local n = 0
    repeat
      n = n + 1
      local fired = false
      local function hook()
        debug.sethook()
        fired = true
        interrupt()
      end
      local function hooked()
        debug.sethook(hook, "", n)
        run()
        debug.sethook()
      end
      local ok, message = pcall(hooked)
      debug.sethook()
      check(n, ok, message)
    until not fired
    assert(n > 5, "nothing was interrupted")
  end

  local function raise() error("interrupted", 0) end
]]

local SERVERS = [[
  local targets = {}
  for port = 20001, 20004 do
    targets[#targets + 1] = { protocol = "imap", host = "127.0.0.1", port = port }
  end
  nb.configure({
    log = "none", connect_interval = "1h", fast_interval = "1h", failure_threshold = 100, backend_servers = targets,
  })
  nb.start()

  local drained = {}
  local function drain(port, is_drained)
    nb.set_target_state("imap://127.0.0.1:" .. port, is_drained and "drain" or "auto")
    drained[port] = is_drained or nil
  end
  local function ports(servers)
    local list = {}
    for _, server in ipairs(servers) do list[#list + 1] = server.port end
    return table.concat(list, " ")
  end
  local function wanted()
    local list = {}
    for port = 20001, 20004 do
      if not drained[port] then list[#list + 1] = port end
    end
    return table.concat(list, " ")
  end
  -- The next call reads the list again.
  local function change()
    drain(20001, true)
    drain(20002, false)
  end
  local function reset()
    drain(20001, false)
    drain(20002, false)
    assert(ports(nb.get_backend_servers()) == wanted())
    change()
  end
]]

local function runs(script)
  local printed, well = interpreter.run(PRELUDE .. script .. "\nprint('ok')")
  assert.equal("ok\n", printed)
  assert.is_true(well)
end

-- Lua 5.1 cannot yield across the pcall of with_context.
local can_yield = _VERSION ~= "Lua 5.1" or jit ~= nil

describe("a hook in the middle of a call", function()
  it("that reads the list leaves the right one", function()
    runs(SERVERS .. [[
      reset()
      interrupted(nb.get_backend_servers, function()
        nb.get_backend_servers()
        drain(20002, true)
      end, function(n, ok, message)
        assert(ok, message)
        local found = ports(nb.get_backend_servers())
        assert(found == wanted(), n .. ": " .. found .. ", not " .. wanted())
        reset()
      end)
    ]])
  end)

  it("that raises leaves the right list", function()
    runs(SERVERS .. [[
      reset()
      interrupted(nb.get_backend_servers, raise, function(n, ok, message)
        assert(ok or message == "interrupted", message)
        local found = ports(nb.get_backend_servers())
        assert(found == wanted(), n .. ": " .. found .. ", not " .. wanted())
        reset()
      end)
    ]])
  end)

  it("that asks for the same user leaves the right route", function()
    runs(SERVERS .. [[
      local function route()
        local server = nb.route("user", { protocol = "imap", port = 20003 })
        return server and server.port
      end
      local function ask()
        local port = route()
        assert(port == 20003, tostring(port))
      end
      reset()
      interrupted(ask, function()
        ask()
        drain(20002, true)
        ask()
      end, function(_, ok, message)
        assert(ok, message)
        ask()
        reset()
      end)
    ]])
  end)

  it("never gets an object that another call gets as well", function()
    runs([[
      for _, new in ipairs({ class.new, nb.new_context }) do
        local found = {}
        local function make()
          local object = new()
          assert(not found[object], "the same object twice")
          found[object] = true
        end
        for _ = 1, 20 do
          interrupted(make, make, function(_, ok, message) assert(ok, message) end)
        end
      end
    ]])
  end)

  it("that loads the module while it is loaded gets the same one", function()
    local printed = interpreter.run([[
      local path = package.cpath:gsub("%?", "nauthilus_backend")
      local load = assert(package.loadlib(path, "luaopen_nauthilus_backend"))
      local inner
      debug.sethook(function()
        debug.sethook()
        inner = load("nauthilus_backend")
      end, "", 300)
      local outer = load("nauthilus_backend")
      debug.sethook()
      assert(inner and inner == outer)
      outer.apply_backend_result(nauthilus_backend_result.new())
      print("ok")
    ]])
    assert.equal("ok\n", printed)
  end)

  it("that raises leaves the main thread its context", function()
    runs([[
      local default = nb.context()
      interrupted(function()
        nb.with_context(nb.new_context(), function() end)
      end, raise, function(n)
        assert(nb.context() == default, n)
      end)
      local outer = nb.new_context()
      nb.with_context(outer, function()
        interrupted(function()
          pcall(nb.with_context, nb.new_context(), error, "an error")
        end, raise, function(n)
          assert(nb.context() == outer, n)
        end)
      end)
      assert(nb.context() == default)
    ]])
  end)

  it("that raises leaves a coroutine its context", function()
    runs([[
      local default = nb.context()
      coroutine.wrap(function()
        local function check(n) assert(nb.context() == default, n) end
        interrupted(function() nb.with_context(nb.new_context(), function() end) end, raise, check)
        -- In LuaJIT there is one instruction at which a second error would leave the binding: see `plain.lua`.
        if not jit then
          interrupted(function() pcall(nb.with_context, nb.new_context(), error, "an error") end, raise, check)
        end
      end)()
      assert(nb.context() == default)
    ]])
  end)

  it("that keeps raising leaves the next request its context", function()
    -- A host's time limit that the script cannot catch: the hook raises at every line until the host has control.
    runs([[
      local function limited(script)
        local function raise_on() if debug.getinfo(2, "f").func ~= limited then raise() end end
        debug.sethook(function() debug.sethook(raise_on, "l") raise() end, "", 100000)
        local ok = pcall(script)
        debug.sethook()
        assert(not ok)
      end
      local default, ended = nb.context(), nb.new_context()
      limited(function()
        nb.with_context(ended, function() while true do local _ = 1 end end)
      end)
      assert(nb.context() == default)
    ]])
  end)

  if can_yield then
    it("that runs another coroutine leaves each its context", function()
      runs([[
        local default = nb.context()
        local other
        local function begin()
          other = coroutine.create(function()
            nb.with_context(nb.new_context(), function()
              local own = nb.context()
              coroutine.yield()
              assert(nb.context() == own)
            end)
          end)
        end
        local function continue()
          local ok, message = coroutine.resume(other)
          assert(ok, message)
        end
        -- One that begins, and one that ends, in the middle of another call.
        for _, is_begun in ipairs({ false, true }) do
          begin()
          if is_begun then continue() end
          coroutine.wrap(function()
            interrupted(function()
              local context = nb.new_context()
              nb.with_context(context, function() assert(nb.context() == context) end)
            end, continue, function(n, ok, message)
              assert(ok, message)
              while coroutine.status(other) ~= "dead" do continue() end
              assert(nb.context() == default, n)
              begin()
              if is_begun then continue() end
            end)
          end)()
          while coroutine.status(other) ~= "dead" do continue() end
          -- From now on, too.
          local context = nb.new_context()
          coroutine.wrap(function()
            nb.with_context(context, function() nb.select_backend_server("192.0.2.1", 143) end)
          end)()
          assert(context:selected() == "192.0.2.1")
          assert(nb.context() == default and not default:selected())
        end
      ]])
    end)
  end
end)
