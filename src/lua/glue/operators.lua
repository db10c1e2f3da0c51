-- metrics, status_json and status_page, for operators.

local native, parts = ...
local errors, host = parts.errors, parts.host
local concat, find, type, next = table.concat, string.find, type, next

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

-- The options of status_page. Of a nonce only the characters that Content-Security-Policy allows.
local PAGE_OPTIONS = {
  nonce = { "^[A-Za-z0-9+/_-]+=?=?$", "nonce: text in Base64" },
  title = { "", "title: text" },
  json_url = { "", "json_url: text" },
}

function api.status_page(options)
  if options == nil then
    return native.status_page(host.may_probe())
  end
  if type(options) ~= "table" then
    errors.wrong_type(1, "status_page", "table or nil", options)
  end
  -- Not a `for` over `next`: LuaJIT's trace of one does not end inside a finaliser.
  local key, value = next(options)
  while key ~= nil do
    local option = PAGE_OPTIONS[key]
    if not option then
      errors.wrong_value(1, "status_page", "nonce, title or json_url", key)
    end
    if type(value) ~= "string" or not find(value, option[1]) then
      errors.wrong_value(1, "status_page", option[2], value)
    end
    key, value = next(options, key)
  end
  return native.status_page(host.may_probe(), options.nonce, options.title, options.json_url)
end

return operators
