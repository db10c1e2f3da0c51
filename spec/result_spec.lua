-- The class nauthilus_backend_result: setters, getters, fields, types.

local interpreter = require("spec.support.interpreter")
local misuse = require("spec.support.misuse")
local nb = require("nauthilus_backend")
local class = require("nauthilus_backend_result")

-- Some versions of Lua lack these functions.
local newproxy = rawget(_G, "newproxy")
local math_type, maxinteger = rawget(math, "type"), rawget(math, "maxinteger")

describe("nauthilus_backend_result", function()
  local b

  before_each(function()
    b = class.new()
  end)

  it("is one class by all its names", function()
    assert.equal(nauthilus_backend_result, class)
    assert.equal("userdata", type(class.new()))
    assert.equal("userdata", type(class:new()))
    assert.not_equal(class.new(), class.new())
  end)

  it("begins empty", function()
    for _, name in ipairs({ "authenticated", "user_found" }) do
      assert.is_false(b[name](b))
    end
    for _, name in ipairs({
      "account_field", "totp_secret_field", "totp_recovery_field", "unique_user_id_field", "display_name_field",
    }) do
      assert.is_nil(b[name](b))
      assert.equal(1, select("#", b[name](b)))
    end
    for _, name in ipairs({ "attributes", "groups", "group_dns", "webauthn_credentials" }) do
      assert.same({}, b[name](b))
    end
  end)

  it("sets with an argument and gets without one", function()
    assert.equal(0, select("#", b:authenticated(true)))
    b:user_found(true)
    assert.is_true(b:authenticated())
    assert.is_true(b:user_found())
    b:authenticated(false)
    assert.is_false(b:authenticated())
    assert.is_true(b:user_found())
    for _, name in ipairs({
      "account_field", "totp_secret_field", "totp_recovery_field", "unique_user_id_field", "display_name_field",
    }) do
      b[name](b, name .. "\0\255")
      assert.equal(name .. "\0\255", b[name](b))
    end
    for _, name in ipairs({ "groups", "group_dns", "webauthn_credentials" }) do
      b[name](b, { name, "z", "a", name })
      assert.same({ name, "z", "a", name }, b[name](b))
    end
  end)

  it("takes assignments to fields as the setters do", function()
    b.authenticated = true
    b.account_field = "uid"
    b.attributes = { mail = "x@example.org" }
    b.groups = { "staff" }
    assert.is_true(b:authenticated())
    assert.equal("uid", b:account_field())
    assert.same({ mail = "x@example.org" }, b:attributes())
    assert.same({ "staff" }, b:groups())
  end)

  it("keeps the types of attribute values", function()
    local values = {
      text = "x", empty = "", binary = "\0\r\n\255", yes = true, no = false, fraction = 1.5, whole = 10000000,
      list = { "a", 2, true, 1.25 }, nothing = {},
    }
    b:attributes(values)
    assert.same(values, b:attributes())
    if math_type then
      b:attributes({ integer = maxinteger, float = 2.0 })
      assert.equal(maxinteger, b:attributes().integer)
      assert.equal("integer", math_type(b:attributes().integer))
      assert.equal("float", math_type(b:attributes().float))
    end
  end)

  it("replaces all attributes at once", function()
    b:attributes({ a = "1", b = "2" })
    b:attributes({ c = "3" })
    assert.same({ c = "3" }, b:attributes())
    b:attributes({})
    assert.same({}, b:attributes())
  end)

  it("takes and gives copies", function()
    local attributes, list, groups = {}, { "x" }, { "g" }
    attributes.list = list
    b:attributes(attributes)
    b:groups(groups)
    attributes.more, list[2], groups[2] = "m", "y", "h"
    assert.same({ list = { "x" } }, b:attributes())
    assert.same({ "g" }, b:groups())
    b:attributes().list[1] = "z"
    b:groups()[1] = "z"
    assert.same({ list = { "x" } }, b:attributes())
    assert.same({ "g" }, b:groups())
  end)

  it("reads tables raw", function()
    local raises = function() error("a metamethod ran") end
    local guard = { __index = raises, __len = raises, __pairs = raises, __ipairs = raises }
    b:attributes(setmetatable({ a = setmetatable({ "1" }, guard) }, guard))
    b:groups(setmetatable({ "g" }, guard))
    assert.same({ a = { "1" } }, b:attributes())
    assert.same({ "g" }, b:groups())
  end)

  it("takes many attributes", function()
    local many = {}
    for i = 1, 5000 do
      many["name" .. i] = { i, "value" }
    end
    b:attributes(many)
    assert.same(many, b:attributes())
  end)

  it("refuses wrong types, naming method, expected and actual type", function()
    for _, name in ipairs({ "authenticated", "user_found" }) do
      for _, wrong in ipairs({ 1, "true", {} }) do
        misuse(function() b[name](b, wrong) end,
          ("bad argument #1 to '%s' (boolean expected, got %s)"):format(name, type(wrong)))
      end
    end
    for _, wrong in ipairs({ 1, true, {} }) do
      misuse(function() b:account_field(wrong) end,
        "bad argument #1 to 'account_field' (string expected, got " .. type(wrong))
    end
    for _, wrong in ipairs({ 1, true, "mail", print }) do
      misuse(function() b:attributes(wrong) end,
        "bad argument #1 to 'attributes' (table expected, got " .. type(wrong))
      misuse(function() b:groups(wrong) end,
        "bad argument #1 to 'groups' (array of strings expected, got " .. type(wrong))
    end
    assert.same({}, b:attributes())
  end)

  it("takes an explicit nil for a wrong argument", function()
    misuse(function() b:attributes(nil) end, "bad argument #1 to 'attributes' (table expected, got nil)")
    misuse(function() b:authenticated(nil) end, "bad argument #1 to 'authenticated' (boolean expected, got nil)")
    misuse(function() b.account_field = nil end, "bad value for field 'account_field' (string expected, got nil)")
  end)

  it("refuses attributes that are none, and keeps those it has", function()
    b:attributes({ kept = "1" })
    misuse(function() b:attributes({ "x" }) end, "got a number as a name")
    misuse(function() b:attributes({ [true] = "x" }) end, "got a boolean as a name")
    misuse(function() b:attributes({ f = print }) end, 'expected for attribute "f", got function')
    misuse(function() b:attributes({ u = b }) end, 'expected for attribute "u", got userdata')
    misuse(function() b:attributes({ t = { "x", print } }) end, 'expected for attribute "t", got function at index 2')
    misuse(function() b:attributes({ t = { x = "y" } }) end,
      'expected for attribute "t", got a table with other keys than 1..n')
    misuse(function() b:attributes({ t = { "x", y = "z" } }) end, "got a table with other keys than 1..n")
    misuse(function() b:attributes({ t = { [0] = "x" } }) end, "got a table with other keys than 1..n")
    misuse(function() b:attributes({ t = { [1.5] = "x" } }) end, "got a table with other keys than 1..n")
    misuse(function() b:attributes({ t = { [-1] = "x" } }) end, "got a table with other keys than 1..n")
    misuse(function() b:attributes({ t = { [2] = "x" } }) end, "got an array with nothing at index 1")
    misuse(function() b:attributes({ t = { "x", nil, "z" } }) end, "got an array with nothing at index 2")
    assert.same({ kept = "1" }, b:attributes())
  end)

  it("leaves out attributes that are tables in tables, and says so in the log", function()
    local printed, well = interpreter.run([[
      local nb = require("nauthilus_backend")
      local b = nauthilus_backend_result.new()
      b:attributes({ kept = "1", nested = { { "hidden" } }, list = { "x", 2 } })
      local got = b:attributes()
      assert(got.kept == "1" and got.list[2] == 2 and got.nested == nil)
      b.attributes = { deep = { "y", { a = { "hidden" } } }, other = true }
      got = b:attributes()
      assert(got.other == true and got.deep == nil and got.kept == nil)
      nb.apply_backend_result(b)
      assert(nb.context():headers()["X-Nauthilus-Other"] == "true")
      print("ok")
    ]])
    assert.is_true(well, printed)
    local line = 'event=attribute_left_out attribute="nested" reason="its value is a table in a table"'
    assert.matches(line, printed, 1, true)
    assert.matches("ok\n$", printed)
    -- At most one line a second, whatever is passed; never a value.
    local _, lines = printed:gsub("event=", "")
    assert.equal(1, lines)
    assert.is_nil(printed:find("hidden", 1, true))
  end)

  it("names an attribute that it leaves out by its start", function()
    local printed, well = interpreter.run([[
      local nb = require("nauthilus_backend")
      local b = nauthilus_backend_result.new()
      b:attributes({ [("x"):rep(2000000)] = { { "hidden" } } })
      print("ok")
    ]])
    assert.is_true(well, printed:sub(1, 1000))
    assert.matches(('attribute="%s..." reason='):format(("x"):rep(64)), printed, 1, true)
    assert.is_true(#printed < 400)
  end)

  it("takes the names that scripts for Nauthilus assign", function()
    b.unique_user_id, b.display_name = "uid", "cn"
    assert.equal("uid", b:unique_user_id_field())
    assert.equal("cn", b:display_name_field())
    misuse(function() b.display_name = 1 end, "bad value for field 'display_name' (string expected, got number)")
    misuse(function() return b.unique_user_id end, 'no field or method "unique_user_id"')
  end)

  it("refuses arrays of strings that are none", function()
    misuse(function() b:groups({ "a", 1 }) end, "(array of strings expected, got number at index 2)")
    misuse(function() b:groups({ "a", nil, "c" }) end, "got an array with nothing at index 2")
    misuse(function() b:group_dns({ a = "b" }) end,
      "bad argument #1 to 'group_dns' (array of strings expected, got a table")
    misuse(function() b:webauthn_credentials({ {} }) end, "got table at index 1")
    misuse(function() b.groups = { true } end,
      "bad value for field 'groups' (array of strings expected, got boolean at index 1)")
  end)

  it("names what it does not have, and what may have been meant", function()
    misuse(function() b.authentcated = true end, [[no field "authentcated"; did you mean 'authenticated'?]])
    misuse(function() b:atributes({}) end, [[no field or method "atributes"; did you mean 'attributes'?]])
    misuse(function() b.zzz = 1 end, 'nauthilus_backend_result has no field "zzz"')
    misuse(function() b[1] = 1 end, "nauthilus_backend_result has no field 1")
    misuse(function() return b[{}] end, "nauthilus_backend_result has no field or method table")
    misuse(function() return class.create() end, [[nauthilus_backend_result has no function "create"]])
  end)

  it("refuses methods on anything else", function()
    local method = b.attributes
    for _, wrong in ipairs({ {}, "x", 1, io.stdout, nb.new_context() }) do
      misuse(function() method(wrong) end,
        "bad self in 'attributes' (nauthilus_backend_result expected, got " .. type(wrong))
      misuse(function() method(wrong, {}) end, "bad self in 'attributes'")
    end
    misuse(function() b.attributes({}) end, "got table; call it with ':'")
    misuse(function() method() end, "got nil; call it with ':'")
  end)

  it("hides its metatable", function()
    assert.is_false(getmetatable(b))
    assert.is_false(pcall(setmetatable, b, {}))
    assert.equal("nauthilus_backend_result", tostring(b))
  end)

  it("survives finalisers that use it, and a finaliser called by hand", function()
    local seen
    local function finalised(object, finaliser)
      if newproxy then
        local proxy = newproxy(true)
        getmetatable(proxy).__gc = function() finaliser(object) end
        return proxy
      end
      return setmetatable({ object }, { __gc = function(self) finaliser(self[1]) end })
    end
    for _ = 1, 100 do
      -- Context and result are freed in one collection, in which the result may be finalised first.
      finalised(class.new(), function(result)
        seen = { pcall(result.attributes, result) }
      end)
    end
    collectgarbage()
    collectgarbage()
    assert.is_table(seen)
    assert.is_true(seen[1] or type(seen[2]) == "string")

    -- In LuaJIT what a result holds is in another userdata, which has the finaliser.
    local finalise, held = debug.getmetatable(b).__gc, b
    if jit then
      held = debug.getfenv(b)[1] -- luacheck: ignore 143 (LuaJIT and 5.1 have it)
      finalise = debug.getmetatable(held).__gc
      finalise(b)
      assert.same({}, b:attributes())
    end
    finalise(held)
    finalise(held)
    misuse(function() b:attributes() end, "bad self in 'attributes'")
    misuse(function() nb.apply_backend_result(b) end, "bad argument #1 to 'apply_backend_result'")
  end)

  it("lets finalisers use the module while it allocates", function()
    local runs = 0
    local function again()
      runs = runs + 1
      local other = class.new()
      other:attributes({ a = "b", list = { "c", "d" } })
      local context = nb.new_context()
      context:set_base(other)
      assert(context:attributes().list[2] == "d")
      assert(context:headers()["X-Nauthilus-A"] == "b")
    end
    local function garbage()
      if newproxy then
        getmetatable(newproxy(true)).__gc = again
      else
        setmetatable({}, { __gc = again })
      end
    end
    local wide = {}
    for i = 1, 200 do
      wide["attribute" .. i] = { "value" .. i, i }
    end
    for _ = 1, 200 do
      garbage()
      b:attributes(wide)
      local got = b:attributes()
      assert.equal("value200", got.attribute200[1])
    end
    collectgarbage()
    assert.is_true(runs > 0)
  end)

  it("does not grow", function()
    local function work()
      for _ = 1, 20000 do
        local r = class.new()
        r:attributes({ a = "b", list = { "x", 1 } })
        r:groups({ "g" })
        r:attributes()
        pcall(r.attributes, r, { print })
      end
      collectgarbage()
      collectgarbage()
    end
    local function resident()
      local file = assert(io.open("/proc/self/statm"))
      local pages = file:read("*a"):match("^%d+ (%d+)")
      file:close()
      return tonumber(pages)
    end
    work()
    local before = resident()
    for _ = 1, 5 do
      work()
    end
    -- A leak of one result in each round would be thousands of pages.
    assert.is_true(resident() - before < 1000)
  end)
end)
