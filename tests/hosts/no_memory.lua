-- A Lua state whose allocator refuses: `require` and each function of the module raise Lua's memory
-- error, or do without what was refused, whichever allocation it is; the process survives and the
-- next call works.

local tap = require("tap")

local port = host.listen(4096)

local probe = [[ host.tally(select(3, host.failing(1, true, string.rep, "x", 1e6)) == "not enough memory" and 1 or 0) ]]
host.states(1, probe)
if host.tally(0) == 0 then
  tap.check("# SKIP this interpreter takes no allocator of its host's", true)
  return
end

-- Runs in a state of its own. `argument`: which call, whether all later allocations are refused, too,
-- and a port. For a call of the module it goes through all allocations, of `require` it takes one.
local chunk = [[
  local name, number, is_sticky, port = argument:match("(%S+) (%d+) (%S+) (%d+)")
  number, is_sticky, port = tonumber(number), is_sticky == "sticky", tonumber(port)
  local nb, result, context, check, server

  local function load_module()
    nb = require("nauthilus_backend")
  end

  local function configuration()
    return {
      connect_interval = "1h", log = "none",
      backend_servers = { { protocol = "imap", host = "127.0.0.1", port = port } },
    }
  end

  local calls = {
    list = function() return nb.get_backend_servers()[1].port end,
    configure = function() nb.configure(configuration()) end,
    select = function() nb.select_backend_server("127.0.0.1", 993) end,
    apply = function() nb.apply_backend_result(result) end,
    new_result = function()
      local one = nauthilus_backend_result.new()
      one:attributes({ a = "b", c = { 1, true, "x" } })
      one.groups = { "b", "a" }
    end,
    read_result = function() return result:attributes(), result:groups() end,
    remove = function() nb.remove_from_backend_result({ "a", "b" }) end,
    current = function() return nb.get_current_backend_result(), nb.get_selected_backend_server() end,
    removed = function() return nb.get_removed_backend_attributes() end,
    new_context = function()
      local one = nb.new_context()
      one:set_base(result)
      return one:headers(), one:each_header()(), one:groups()
    end,
    with_context = function() return nb.with_context(context, nb.get_backend_servers) end,
    status = function() return nb.status().targets[1].key end,
    wait_ready = function() return nb.wait_ready(0.001) end,
    start = function() return nb.start() end,
    report_failure = function() return nb.report_failure("127.0.0.1", port) end,
    is_health_check = function() return nb.is_health_check("user") end,
    check = function() return nb.check_backend_connection("127.0.0.1", port, false, false) end,
    check_table = function()
      return nb.check_backend_connection().check({ host = "127.0.0.1", port = port })
    end,
    start_check = function()
      local one = nb.start_check("127.0.0.1", port, false, false)
      return one:wait(5), one:result(), one:fd(), one:cancel()
    end,
    misuse = function()
      local ok, why = pcall(nb.select_backend_server, "a b", 0)
      if not ok then
        error(why, 0)
      end
    end,
    loader = function() dynamic_loader("nauthilus_backend_result") end,
  }

  -- Whether an allocation was refused.
  local function try(call)
    local left, ok, why = host.failing(number, is_sticky, call)
    if not ok and why ~= "not enough memory" and not (name == "misuse" and why:find("bad argument", 1, true)) then
      error(name .. " at allocation " .. number .. ": " .. tostring(why), 0)
    end
    return left == 0
  end

  local is_refused
  if name == "require" then
    -- LuaJIT itself does not survive a `require "ffi"` that was interrupted by an error, so that is not
    -- repeated.
    if is_sticky and rawget(_G, "jit") then
      require("ffi")
    end
    is_refused = try(load_module)
    package.loaded.nauthilus_backend = nil
    load_module()
    assert(nb.new_context():headers() and nb.status().pid, "it does not work afterwards")
  else
    load_module()
    nb.configure(configuration())
    result, context = nauthilus_backend_result.new(), nb.new_context()
    result:attributes({ hostip = "127.0.0.1" })
    result:groups({ "a", "b" })
    local call = assert(calls[name], name)
    repeat
      -- Makes the next call read the list anew.
      nb.configure(configuration())
      is_refused = try(call)
      number = number + 1
      pcall(call)
      assert(nb.get_backend_servers()[1].port == port)
      assert(nb.status().targets[1].key)
    until not is_refused or number > 300
  end
  host.tally(is_refused and 1 or 0)
]]

local names = {}
for name in chunk:gmatch("\n    ([%w_]+) = function%(%)") do
  names[#names + 1] = name
end

for _, stickiness in ipairs({ "once", "sticky" }) do
  tap.in_child("require, refused " .. stickiness, 120, function()
    -- Most of the thousands of allocations are the compiler's, of the embedded Lua: only a part of them is
    -- refused, another one in each run.
    local all, step = 400, 7
    local number, before = 0, -1
    while host.tally(0) > before do
      number = number + (number < all and 1 or number == all and 1 + os.time() % step or step)
      before = host.tally(0)
      io.write("# allocation ", number, "\n")
      io.flush()
      host.states(1, chunk, "require " .. number .. " " .. stickiness .. " " .. port)
    end
    io.write("# the last was before ", number, "\n")
    io.flush()
    return number > 100
  end)
  for _, name in ipairs(names) do
    tap.in_child(name .. ", refused " .. stickiness, 60, function()
      host.states(1, chunk, name .. " 1 " .. stickiness .. " " .. port)
      return true
    end)
  end
end
