-- Light userdata: `ngx.null`, `cjson.null`, addresses that C libraries and the debug library give.

local find_problems = require("spec.support.light_userdata")

describe("a light userdata", function()
  local nb = require("nauthilus_backend")
  local class = require("nauthilus_backend_result")

  local lights = {}
  -- Lua 5.1 has no such function.
  local upvalueid = rawget(debug, "upvalueid")
  if upvalueid then
    lights.address = upvalueid(function() return nb end, 1)
  end
  local found, cjson = pcall(require, "cjson")
  if found then
    lights.null = cjson.null
  end

  local function configure()
    local server = { protocol = "imap", host = "127.0.0.1", port = 1, node = "one" }
    nb.configure({ log = "none", backend_servers = { server } })
  end

  before_each(configure)

  after_each(function()
    nb.context():reset()
    nb.stop()
  end)

  it("is refused or left out wherever it is given", function()
    assert.is_not_nil(next(lights))
    for _, light in pairs(lights) do
      assert.same({}, find_problems(nb, class, light))
      assert.equal("imap://127.0.0.1:1", nb.status().targets[1].key)
    end
  end)

  -- All light userdata share one metatable, which scripts set so that fields of a null are nil.
  it("may have a metatable", function()
    local function fail()
      error("a metamethod of the script's was called")
    end
    for _, light in pairs(lights) do
      local before = debug.getmetatable(light)
      for _, metatable in ipairs({
        { __index = fail, __newindex = fail, __call = fail, __len = fail, __pairs = fail, __eq = fail, __lt = fail,
          __concat = fail, __tostring = fail, __unm = fail, __name = "null" },
        { __index = function() end, __call = function() end, __tostring = function() return "null" end },
        -- As if it were one of ours.
        debug.getmetatable(class.new()),
        debug.getmetatable(nb.new_context()),
        debug.getmetatable(nb.get_backend_servers()[1]),
      }) do
        debug.setmetatable(light, metatable)
        local done, problems = pcall(find_problems, nb, class, light)
        debug.setmetatable(light, before)
        assert.is_true(done, problems)
        assert.same({}, problems)
      end
    end
  end)
end)
