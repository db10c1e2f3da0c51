-- Every function of the module, called by finalisers at every moment: in states that are being
-- closed, where what the module made is finalised first, in the middle of a collection that a call
-- of the module began, and where nothing has loaded the module yet. Each call works or raises a
-- string; the process survives.

local tap = require("tap")

local port = host.listen(4096)

-- Runs in a Lua state of its own. `argument`: the name of a call, a moment, and a port.
local chunk = [[
  local name, moment, port = argument:match("(%S+) (%S+) (%d+)")
  port = tonumber(port)
  local pcall, type, collectgarbage = pcall, type, collectgarbage
  local newproxy, host = rawget(_G, "newproxy"), host
  local nb, result, context, check, server

  -- Has `fn` called once what is returned is collected, or the state is closed.
  local function finaliser(fn)
    if newproxy then
      local proxy = newproxy(true)
      getmetatable(proxy).__gc = fn
      return proxy
    end
    return setmetatable({}, { __gc = fn })
  end

  local function configuration(interval)
    return {
      connect_interval = interval, log = "none",
      backend_servers = {
        { protocol = "imap", host = "127.0.0.1", port = port },
        { protocol = "imap", host = "127.0.0.1", port = 1 },
      },
    }
  end

  local function load_module()
    nb = require("nauthilus_backend")
  end

  -- Objects that are older than the call: where they are finalised before it, their methods find nothing.
  local function make_old()
    nb.configure(configuration("1h"))
    result = nauthilus_backend_result.new()
    result:attributes({ hostip = "127.0.0.1" })
    context = nb.new_context()
    check = nb.start_check("127.0.0.1", port, false, false)
    server = nb.get_backend_servers()[1]
  end

  local function list()
    local servers = nb.get_backend_servers()
    return servers[1] and servers[1].port, #servers
  end

  local calls = {
    require_again = function()
      package.loaded.nauthilus_backend = nil
      load_module()
    end,
    loader = function() dynamic_loader("nauthilus_backend_result") end,
    list = list,
    server = function() return server.ip, server.port, tostring(server), pcall(pairs, server) end,
    list_of_another = function()
      nb.configure(configuration("3h"))
      return list(), list()
    end,
    select = function() nb.select_backend_server("127.0.0.1", 993) end,
    select_name = function() nb.select_backend_server("localhost", "993") end,
    select_wrong = function() nb.select_backend_server("a b", 993) end,
    apply_old = function() nb.apply_backend_result(result) end,
    apply_new = function()
      local one = nauthilus_backend_result.new()
      one:attributes({ a = "b", c = { 1, true, "x" } })
      one.groups = { "b", "a" }
      nb.apply_backend_result(one)
    end,
    remove = function() nb.remove_from_backend_result({ "a", "b" }) end,
    current_result = function() return nb.get_current_backend_result():attributes() end,
    selected = function() return nb.get_selected_backend_server() end,
    removed = function() return nb.get_removed_backend_attributes() end,
    current_context = function() return nb.context():headers() end,
    new_context = function()
      local one = nb.new_context()
      one:set_base(nauthilus_backend_result.new())
      return one:attributes(), one:groups(), one:removed(), one:selected()
    end,
    with_context = function() return nb.with_context(nb.new_context(), list) end,
    with_old_context = function() return nb.with_context(context, calls_select) end,
    old_context = function() return context:headers(), context:each_header()() end,
    reset = function() context:reset() end,
    set_base = function() context:set_base(result) end,
    old_result = function() return result:attributes(), result:groups(), tostring(result) end,
    set_old_result = function()
      result:groups({ "x" })
      result.authenticated = true
      result:account_field("y")
    end,
    wrong_result = function() result:attributes(1) end,
    wrong_field = function() return result.atributes end,
    configure = function() nb.configure(configuration("2h")) end,
    configure_wrong = function() nb.configure({ backend_servers = { { port = "x" } } }) end,
    configure_path = function() nb.configure("/nonexistent.yml") end,
    start = function() return nb.start() end,
    stop = function() nb.stop() end,
    wait_ready = function() return nb.wait_ready(0.001) end,
    status = function() return nb.status().targets[1].verdict end,
    report_failure = function() return nb.report_failure("127.0.0.1", port, "why") end,
    is_health_check = function() return nb.is_health_check("user") end,
    check = function() return nb.check_backend_connection("127.0.0.1", port, false, false) end,
    check_table = function()
      return nb.check_backend_connection().check({ host = "127.0.0.1", port = port })
    end,
    check_wrong = function() nb.check_backend_connection("127.0.0.1", 0) end,
    start_check = function()
      local one = nb.start_check("127.0.0.1", port, false, false, { coalesce = false })
      return one:done(), one:result(), one:cancel()
    end,
    old_check = function() return check:done(), check:result() end,
    wait_old_check = function() return check:wait(0.001) end,
    old_check_fd = function() return check:fd() end,
    cancel_old_check = function() check:cancel() end,
  }
  calls_select = calls.select

  local call = assert(calls[name], name)
  local function once()
    local ok, why = pcall(call)
    if not ok and type(why) ~= "string" then
      print("not ok - closing: " .. name .. " " .. moment .. ": raised a " .. type(why))
    end
    host.tally(1)
    return ok
  end

  -- Whether the call works at all, where nothing has been finalised yet.
  local function works()
    local ok, why = pcall(call)
    local is_misuse = name:find("wrong", 1, true) or name == "configure_path"
    if ok == (is_misuse and true or false) then
      error(name .. ": " .. tostring(why), 0)
    end
  end

  local collector = require("spec.support.collector")
  local function churn(fn)
    collector.set("pause", 1)
    for round = 1, 12 do
      for _ = 1, 5 do
        finaliser(fn)
      end
      collector.set("stepmul", 100 + round * 333 % 1500)
      pcall(call)
      pcall(list)
      nauthilus_backend_result.new()
    end
    for _ = 1, 3 do
      pcall(collectgarbage)
    end
  end

  local moments = {
    -- At the end of the state. The object was made before anything of the module.
    before = function()
      keep = finaliser(once)
      load_module()
      make_old()
      works()
    end,
    -- The same, without any use of the module before: it makes some of its objects on first use.
    before_use = function()
      keep = finaliser(once)
      load_module()
    end,
    -- At the end of the state. The object was made after the module was loaded.
    after = function()
      load_module()
      make_old()
      keep = finaliser(once)
    end,
    -- At the end of a state that has not loaded the module.
    first_load = function()
      keep = finaliser(function()
        pcall(load_module)
        pcall(make_old)
        once()
      end)
    end,
    -- In a full collection of garbage.
    collected = function()
      load_module()
      make_old()
      finaliser(once)
      collectgarbage()
      collectgarbage()
    end,
    -- In any step of the collector that a call of the module causes.
    stepped = function()
      load_module()
      make_old()
      churn(once)
    end,
    -- The same, and the finaliser collects as well.
    steps = function()
      load_module()
      make_old()
      churn(function()
        pcall(collectgarbage, "step")
        once()
        pcall(collectgarbage, "step", 100)
      end)
    end,
    -- With objects of the module that are garbage along with the finaliser.
    together = function()
      load_module()
      make_old()
      finaliser(once)
      result, context, check, server = nil, nil, nil, nil
      collectgarbage()
      make_old()
      finaliser(once)
      collectgarbage()
    end,
    -- In a coroutine that loaded the module and has been freed.
    coroutine = function()
      keep = finaliser(once)
      coroutine.wrap(function()
        load_module()
        make_old()
      end)()
      for _ = 1, 3 do
        collectgarbage()
      end
      works()
    end,
  }
  assert(moments[moment], moment)()
]]

local moments = {
  "before", "before_use", "after", "first_load", "collected", "stepped", "steps", "together", "coroutine",
}

for name in chunk:gmatch("\n    ([%w_]+) = function%(%)") do
  local is_moment = false
  for _, moment in ipairs(moments) do
    is_moment = is_moment or moment == name
  end
  if not is_moment and name ~= "is_misuse" then
    tap.in_child(name, 60, function()
      for _, moment in ipairs(moments) do
        local before = host.tally(0)
        io.write("# ", name, " ", moment, "\n")
        io.flush()
        host.states(1, chunk, name .. " " .. moment .. " " .. port)
        assert(host.tally(0) > before, "no finaliser came to the call: " .. moment)
      end
      return true
    end)
  end
end
tap.in_child("list", 60, function()
  for _, moment in ipairs(moments) do
    host.states(1, chunk, "list " .. moment .. " " .. port)
  end
  return host.tally(0) > 0
end)
