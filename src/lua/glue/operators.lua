-- metrics, status_json: what operators see.

local native, parts = ...
local errors, host = parts.errors, parts.host
local concat, type = table.concat, type

local operators = { api = {} }
local api = operators.api

-- The text and its content type; or, with `write`, which gets the pieces of the text one after
-- another, the content type alone.
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
