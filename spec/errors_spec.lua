-- Errors are strings, positioned at the caller, that a script can match and concatenate.

local misuse = require("spec.support.misuse")
local nb = require("nauthilus_backend")

describe("an error", function()
  it("can be matched and concatenated", function()
    local ok, message = pcall(nb.select_backend_server, "::1", 0)
    assert.is_false(ok)
    assert.equal("x: bad argument #2 to 'select_backend_server' (integer 1..65535 expected, got 0)", "x: " .. message)
    local wrong = function() nb.apply_backend_result(1) end
    assert.has_error(wrong, "bad argument #1 to 'apply_backend_result' (nauthilus_backend_result expected, got number)")
    assert.error_matches(wrong, "result expected, got number")
  end)

  it("names the line of the script, not one of ours", function()
    -- `misuse` checks the line.
    misuse(function() dynamic_loader(5) end, "bad argument #1 to 'dynamic_loader' (string expected, got number)")
    misuse(function() dynamic_loader() end, "bad argument #1 to 'dynamic_loader' (string expected, got nil)")
    misuse(function() nb.remove_from_backend_result(1) end, "bad argument #1 to 'remove_from_backend_result'")
    misuse(function() nb.select_backend_server() end, "bad argument #1 to 'select_backend_server'")
    misuse(function() nb.select_backend_server("::1", "x") end, "bad argument #2 to 'select_backend_server'")
    misuse(function() nb.select_backend_server("a b", 1) end, "bad argument #1 to 'select_backend_server'")
    misuse(function() nb.apply_backend_result({}) end, "bad argument #1 to 'apply_backend_result'")
    local b = nauthilus_backend_result.new()
    misuse(function() b:authenticated(1) end, "bad argument #1 to 'authenticated'")
    misuse(function() b:attributes(nil) end, "bad argument #1 to 'attributes'")
    misuse(function() b.attributes(1, {}) end, "bad self in 'attributes'")
  end)

  it("shows what was given short and printable", function()
    local message = misuse(function() nb.select_backend_server("x\27[31m\n" .. ("y"):rep(1000), 1) end,
      [[got "x\27[31m\10yyy]])
    assert.is_nil(message:find("%c"))
    assert.is_true(#message < 250)
  end)

  it("is raised in each function of the API as text, whatever it is given", function()
    local class = require("nauthilus_backend_result")
    local function nothing() end
    local odd = {
      0 / 0, -1, 2 ^ 63, "", "\0", {}, true, nothing, io.stdout, class.new(), nb.new_context(),
      coroutine.create(nothing),
    }
    local called = 0
    local function try(f, ...)
      local ok, message = pcall(f, ...)
      called = called + 1
      assert.is_true(ok or type(message) == "string")
    end
    local functions = {
      dynamic_loader, class.new, nb.select_backend_server, nb.apply_backend_result, nb.remove_from_backend_result,
      nb.get_current_backend_result, nb.get_selected_backend_server, nb.get_removed_backend_attributes, nb.context,
      nb.new_context, nb.with_context,
    }
    local b, c = class.new(), nb.new_context()
    for _, name in ipairs({ "authenticated", "account_field", "attributes", "groups" }) do
      functions[#functions + 1] = b[name]
    end
    for _, name in ipairs({
      "set_base", "attributes", "groups", "selected", "removed", "headers", "each_header", "reset",
    }) do
      functions[#functions + 1] = c[name]
    end
    for _, f in ipairs(functions) do
      try(f)
      for _, first in ipairs(odd) do
        try(f, first)
        for _, second in ipairs(odd) do
          try(f, first, second, first)
          try(f, first, { [second ~= second and 1 or second] = first })
        end
      end
    end
    assert.is_true(called > 1000)
    nb.context():reset()
  end)
end)
