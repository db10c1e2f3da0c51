-- The request path that LuaJIT compiles does what the natives do, in whatever it is given.
-- not under valgrind: it is about LuaJIT alone

local interpreter = require("spec.support.interpreter")

-- Prints what each of many calls does, each often enough to be compiled.
local SCRIPT = [[
local nb = require("nauthilus_backend")
local class = nauthilus_backend_result
local lines = {}

local function shown(value)
  if type(value) ~= "table" then
    local text = type(value) == "userdata" and tostring(value) or string.format("%s %q", type(value), tostring(value))
    return #text > 300 and #text .. " bytes" or text
  end
  local parts = {}
  for key, inner in pairs(value) do
    parts[#parts + 1] = tostring(key) .. "=" .. shown(inner)
  end
  table.sort(parts)
  return "{" .. table.concat(parts, ",") .. "}"
end

-- The state of a context and a result after `work`, and what `work` returned or raised.
local function case(name, work, ...)
  for round = 1, 120 do
    local result, context = class.new(), nb.new_context()
    result:attributes({ before = "it" })
    local got = { nb.with_context(context, pcall, work, result, ...) }
    if round % 40 == 1 then
      lines[#lines + 1] = table.concat({ name, shown(got), shown(result:attributes()),
        shown(context:headers()), shown(context:attributes()), shown(context:removed()),
        shown(context:groups()) }, " | ")
    end
  end
end

local values = {
  nothing = {}, text = { a = "b" }, empty_text = { a = "" }, number = { a = 1 }, float = { a = 1.5 },
  big_number = { a = 1e300 }, not_finite = { a = 1 / 0 }, no_number = { a = 0 / 0 }, minus_zero = { a = -0 },
  yes = { a = true }, no = { a = false }, list = { a = { "b", 1 } }, nested = { a = { {} } },
  function_value = { a = print }, userdata_value = { a = class.new() }, index = { "a" }, mixed = { "a", b = "c" },
  nul = { a = "b\0c" }, cr = { a = "b\rc" }, lf = { a = "b\nc" }, bytes = { a = "\255\254" },
  huge = { a = string.rep("x", 100000) }, huge_name = { [string.rep("x", 1000)] = "a" }, no_name = { [""] = "a" },
  secret = { password = "a" }, space_in_name = { ["a b"] = "c" }, nul_in_name = { ["a\0b"] = "c" },
  same_header = { A = "1", a = "2" }, boolean_name = { [true] = "a" },
  two = { a = "1", b = 2 }, three = { a = "1", b = 2, c = true }, four = { a = "1", b = 2, c = true, d = "4" },
  late_refused = { a = "1", b = 2, c = true, d = print }, guarded = setmetatable({ a = "b" }, { __index = error }),
}
values.many = {}
for index = 1, 100 do values.many["name" .. index] = "value" .. index end
values.no_table = "text"
values.also_none = 5
values.boolean = true
values.result = class.new()

local order = {}
for name in pairs(values) do order[#order + 1] = name end
table.sort(order)

local function set(result, value) result:attributes(value) end
local function assign(result, value) result.attributes = value end
local function apply(result, value)
  result:attributes(value)
  nb.apply_backend_result(result)
  nb.apply_backend_result(result)
end
local function remove(result, value)
  nb.apply_backend_result(result)
  nb.remove_from_backend_result(value)
end
for _, name in ipairs(order) do
  local value = values[name]
  case("set " .. name, set, value)
  case("assign " .. name, assign, value)
  case("apply " .. name, apply, value)
  case("remove " .. name, remove, value)
  case("apply this: " .. name, function() nb.apply_backend_result(value) end)
  case("select " .. name, function() nb.select_backend_server(value, 1) end)
  for _, field in ipairs({ "groups", "authenticated", "account_field", "totp_secret_field" }) do
    case(field .. " " .. name, function(result)
      result[field](result, value)
      nb.apply_backend_result(result)
      return result[field](result)
    end)
  end
  case("method of " .. name, function(result) result.attributes(value, {}) end)
end
case("set nil", set, nil)
case("totp field", function(result)
  result:totp_secret_field("seed")
  result:attributes({ seed = "1", other = "2" })
  nb.apply_backend_result(result)
end)
for _, names in ipairs({ {}, { "before" }, { "a", "b", "a" }, { "a", nil, "c" }, { [2] = "a", [1] = "b" }, { 1 } }) do
  case("remove names", remove, names)
end
for _, ip in ipairs({ "192.0.2.1", "::1", "[::1]", "2001:DB8::1", "host.example", "", "192.0.2.300", "1.2.3.4\0",
    "1.2.3.4\r\n", "[1.2.3.4]", " 1.2.3.4", string.rep("a", 1000) }) do
  for _, port in ipairs({ 1, 65535, "993", 993.5, 0, 65536, -1, 0 / 0 }) do
    case("select", function()
      nb.select_backend_server(ip, port)
      return nb.get_selected_backend_server()
    end)
  end
end
case("in a coroutine", function(result)
  local thread = coroutine.wrap(function()
    nb.select_backend_server("192.0.2.1", 1)
    coroutine.yield()
    result:attributes({ a = "b" })
    nb.apply_backend_result(result)
  end)
  thread()
  thread()
end)
print(table.concat(lines, "\n"))
]]

-- Finalisers run whenever something is allocated, and use the module as well.
local FINALISERS = [[
local nb = require("nauthilus_backend")
local class = nauthilus_backend_result
local runs = 0
local function work(text)
  local result, context = class.new(), nb.new_context()
  result:attributes({ a = text, b = 1, c = true, d = text .. "d" })
  nb.with_context(context, function()
    nb.select_backend_server("192.0.2.1", 143)
    nb.remove_from_backend_result({ "x", text })
    nb.apply_backend_result(result)
  end)
  local headers = context:headers()
  assert(headers["X-Nauthilus-A"] == text and headers["X-Nauthilus-D"] == text .. "d")
  assert(headers["X-Nauthilus-B"] == "1" and headers["X-Nauthilus-C"] == "true")
  assert(context:removed()[2] == text and #context:removed() == 2)
  return result
end
collectgarbage("setpause", 10)
local old = {}
for round = 1, 20000 do
  local proxy = newproxy(true)
  local late = class.new()
  getmetatable(proxy).__gc = function()
    runs = runs + 1
    work("finaliser" .. runs)
    -- `late` may have been finalised already: the call then raises this error.
    local ok, why = pcall(late.attributes, late, { a = "late" })
    assert(ok or why:find("bad self in 'attributes'", 1, true), why)
  end
  -- Some results are kept, while the ones made before and after them are freed.
  local result = work("round" .. round)
  if round % 100 == 0 then
    old[round] = result
  end
end
for round, result in pairs(old) do
  assert(result:attributes().a == "round" .. round)
end
print(runs > 1000)
]]

describe("the path that LuaJIT compiles", function()
  if not rawget(_G, "jit") then
    return
  end

  it("does what the natives do", function()
    local function run(options, environment)
      local printed, well = interpreter.run(SCRIPT, options, environment)
      assert.is_true(well, printed)
      -- Removes log lines that appear at most once a second, so anywhere between the printed lines.
      printed = printed:gsub("%d%S+ warning event=attribute_left_out [^\n]*\n", "")
      return (printed:gsub("/tmp/lua_%w+", "script"))
    end
    local compiled, natives = run(nil, "NAUTHILUS_BACKEND_FFI=1"), run(nil, "NAUTHILUS_BACKEND_FFI=0")
    local lines, wanted = {}, {}
    for line in compiled:gmatch("[^\n]+") do lines[#lines + 1] = line end
    for line in natives:gmatch("[^\n]+") do wanted[#wanted + 1] = line end
    assert.is_true(#lines > 1000)
    for index = 1, #wanted do
      assert.equal(wanted[index], lines[index])
    end
    assert.equal(natives, compiled)
    assert.equal(natives, run("-Ohotloop=1000000", "NAUTHILUS_BACKEND_FFI=1"))
  end)

  -- Some versions of LuaJIT's compiler assume that each new array has the fields that the first one had.
  it("gives whole lists while they change", function()
    local printed, well = interpreter.run([[
      local nb = require("nauthilus_backend")
      local all = {}
      for index = 1, 5 do
        all[index] = { protocol = "http", host = "127.0.0.1", port = 1000 + index }
      end
      local function ports()
        local found = {}
        for index, server in ipairs(nb.get_backend_servers()) do
          found[index] = server.port
        end
        return table.concat(found, ",")
      end
      local wrong = 0
      for round = 1, 60 do
        -- Each server is missing once, and in the next round all are there again.
        local targets, expected = {}, {}
        for index, target in ipairs(all) do
          if round % 2 == 0 or index ~= round % 5 + 1 then
            targets[#targets + 1] = target
            expected[#expected + 1] = target.port
          end
        end
        nb.configure({ log = "none", connect_interval = "1h", fast_interval = "1h", backend_servers = targets })
        local wanted = table.concat(expected, ",")
        for _ = 1, 500 do
          local whole, found = pcall(ports)
          wrong = wrong + (whole and found == wanted and 0 or 1)
        end
      end
      print(wrong)
    ]])
    assert.is_true(well, printed)
    assert.equal("0\n", printed)
  end)

  it("bears finalisers at any moment", function()
    for _, environment in ipairs({ "NAUTHILUS_BACKEND_FFI=1", "NAUTHILUS_BACKEND_FFI=0" }) do
      local printed, well = interpreter.run(FINALISERS, nil, environment .. " timeout 60")
      assert.is_true(well, printed)
      assert.equal("true\n", printed)
    end
  end)

  -- The loop over a long list becomes a trace of its own. Here its end is never recorded: LuaJIT records
  -- nothing in finalisers.
  it("ends its loops in finalisers", function()
    for _, environment in ipairs({ "NAUTHILUS_BACKEND_FFI=1", "NAUTHILUS_BACKEND_FFI=0" }) do
      local printed, well = interpreter.run([[
        local nb = require("nauthilus_backend")
        local names = {}
        for number = 1, 500 do
          names[number] = "name" .. number
        end
        names[501] = true
        assert(not pcall(nb.remove_from_backend_result, names))
        assert(not pcall(nb.remove_from_backend_result, names))
        names[501] = nil
        local proxy, removed = newproxy(true), 0
        getmetatable(proxy).__gc = function()
          nb.remove_from_backend_result(names)
          removed = #nb.get_removed_backend_attributes()
        end
        proxy = nil
        collectgarbage()
        print(removed)
      ]], nil, environment .. " timeout 60")
      assert.is_true(well, printed)
      assert.equal("500\n", printed)
    end
  end)

  it("stays in compiled code", function()
    -- Counts traces that end in a call of Lua's C API.
    local function left(environment)
      local printed, well = interpreter.run([[
        local nb, util = require("nauthilus_backend"), require("jit.util")
        local class, count = nauthilus_backend_result, 0
        jit.attach(function(what, trace)
          if what == "stop" and util.traceinfo(trace).linktype == "stitch" then
            count = count + 1
          end
        end, "trace")
        local function request()
          nb.select_backend_server("192.0.2.1", 143)
          local result = class.new()
          result:authenticated(true)
          result:account_field("account")
          result:attributes({ account = "user", hostip = "192.0.2.1", uid = 1 })
          nb.apply_backend_result(result)
        end
        for _ = 1, 20000 do request() end
        print(count)
      ]], nil, environment)
      assert.is_true(well, printed)
      return tonumber(printed)
    end
    -- One such call makes several results at a time, which later calls then take.
    assert.is_true(left("NAUTHILUS_BACKEND_FFI=1") <= 2)
    assert.is_true(left("NAUTHILUS_BACKEND_FFI=0") > 3)
  end)
end)
