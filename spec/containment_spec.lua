-- What fails inside a native reaches the caller as a string.

describe("a failure inside the module", function()
  local parts

  setup(function()
    require("nauthilus_backend")
    parts = debug.getregistry()["nauthilus_backend.parts"]
  end)

  local function string_from(...)
    local ok, err = pcall(...)
    assert.is_false(ok)
    assert.are.equal("string", type(err))
    assert.matches("^nauthilus_backend: internal error: %S", err)
    assert.is_nil(err:find("\n", 1, true), err)
    return err
  end

  it("is a string for each native off the request path", function()
    local count = 0
    for _ in pairs(parts.contain.natives) do
      count = count + 1
    end
    assert.is_true(count >= 15, count .. " natives")
    -- What none of them can convert: the glue never passes such a thing.
    for _, call in ipairs({
      { "wait_ready", {} }, { "report_failure", {}, {} }, { "check_start", 1 }, { "check_result", 1 },
      { "check_wait", io.stdout, {} }, { "check_fd" }, { "check_cancel", "x" }, { "host_problem", {} },
    }) do
      local native = assert(parts.contain.natives[call[1]], call[1])
      local err = string_from(native, call[2], call[3])
      assert.matches("[Ee]rror", err)
    end
  end)

  it("is a string whatever was raised", function()
    local raised = setmetatable({}, { __tostring = function() return "first line\nand a traceback" end })
    local err = string_from(parts.contain.contained(function() error(raised) end))
    assert.are.equal("nauthilus_backend: internal error: first line", err)
  end)

  it("leaves results as they are", function()
    local contained = parts.contain.contained(function(...) return ... end)
    assert.are.equal(3, select("#", contained(nil, false, "x")))
    assert.are.same({ nil, false, "x" }, { contained(nil, false, "x") })
  end)
end)
