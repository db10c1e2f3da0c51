-- Asserts how misuse is reported: a string, positioned at the line of the script, that says
-- what was wrong. Give it functions written on one line.

local assert = require("luassert")

return function(wrong, text)
  local ok, message = pcall(wrong)
  assert.is_false(ok, "accepted; expected: " .. text)
  assert.equal("string", type(message))
  local line = debug.getinfo(wrong, "S").linedefined
  assert.matches("_spec%.lua:" .. line .. ": ", message)
  assert.matches(text, message, 1, true)
  return message
end
