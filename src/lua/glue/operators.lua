-- metrics, status_json and status_page, for operators.

local native, parts = ...
local errors, host = parts.errors, parts.host
local concat, find, type, next = table.concat, string.find, type, next
local clock = os.clock

-- For so many seconds of CPU time a call may keep the event loop from other work. Others then wait less
-- than 2 ms, as a step takes less than half a millisecond.
local SLICE = 0.001

local operators = { api = {} }
local api = operators.api

-- Returns the text and its content type. With `write`, calls it with each piece of the text and the
-- content type, and returns the content type only. Between the steps in which the text is made, a host
-- with an event loop does other work.
function api.metrics(write)
  if write ~= nil and type(write) ~= "function" then
    errors.wrong_type(1, "metrics", "function or nil", write)
  end
  local content_type, config = native.metrics(host.may_probe())
  local all, count = {}, 0
  local began = clock()
  local family, item, pieces = native.metrics_step(config, 0, 0)
  while family do
    for index = 1, #pieces do
      if write then
        write(pieces[index], content_type)
      else
        count = count + 1
        all[count] = pieces[index]
      end
    end
    if host.pause and clock() - began > SLICE then
      host.pause()
      began = clock()
    end
    family, item, pieces = native.metrics_step(config, family, item)
  end
  if write then
    return content_type
  end
  return concat(all), content_type
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
