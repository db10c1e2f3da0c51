-- metrics and status_json, for operators.

local native, parts = ...
local errors, host = parts.errors, parts.host
local concat, type = table.concat, type

local operators = { api = {} }
local api = operators.api

-- Returns the text and its content type. With `write`, calls it with each piece of the text, and returns
-- the content type only.
function api.metrics(write)
  if write ~= nil and type(write) ~= "function" then
    errors.wrong_type(1, "metrics", "function or nil", write)
  end
  local content_type, pieces = native.metrics(host.may_probe())
  if not write then
    return concat(pieces), content_type
  end
  for index = 1, #pieces do
    write(pieces[index])
  end
  return content_type
end

function api.status_json()
  return native.status_json(host.may_probe())
end

return operators
