-- What fails inside a native reaches the caller as a string.

describe("a failure inside the module", function()
  local natives

  setup(function()
    local nb = require("nauthilus_backend")
    local name, value
    local index = 0
    repeat
      index = index + 1
      name, value = debug.getupvalue(nb.status, index)
      natives = name == "native" and value or natives
    until not name
    assert.is_table(natives)
  end)

  local function string_from(...)
    local ok, err = pcall(...)
    assert.is_false(ok)
    assert.are.equal("string", type(err))
    assert.matches("^nauthilus_backend: internal error: %S", err)
    assert.is_nil(err:find("\n", 1, true), err)
    return err
  end

  it("is a string where a native is given what the glue never passes", function()
    for _, call in ipairs({
      { "wait_ready", {} }, { "report_failure", {}, {} }, { "check_start", 1 }, { "check_result", 1 },
      { "check_wait", io.stdout, {} }, { "check_fd" }, { "check_cancel", "x" }, { "host_problem", {} },
      { "is_health_check", 1 }, { "check_start_at", {}, 1 }, { "check_start_at", "::1", "x" },
      { "check_start_at", "::1", 1, 1 },
    }) do
      local native = assert(natives[call[1]], call[1])
      local err = string_from(native, call[2], call[3], call[4])
      assert.matches("[Ee]rror", err)
    end
  end)

  it("is a string in each native, whatever it is given", function()
    -- These end what the specs run, or wait as long as they are told.
    local left_out = { configure = true, start = true, stop = true, wait_ready = true }
    local odd = { 0 / 0, -1, 2 ^ 63, "", "\0", {}, { {} }, true, print, io.stdout, natives.context_new() }
    local count, called = 0, 0
    local function try(native, ...)
      local ok, err = pcall(native, ...)
      called = called + 1
      assert.is_true(ok or type(err) == "string")
    end
    for name, native in pairs(natives) do
      if type(native) == "function" and not left_out[name] then
        count = count + 1
        try(native)
        for _, first in ipairs(odd) do
          try(native, first)
          for _, second in ipairs(odd) do
            try(native, first, second, first, second)
          end
        end
      end
    end
    assert.is_true(count >= 30 and called > 3000, count .. " natives, " .. called .. " calls")
  end)
end)
