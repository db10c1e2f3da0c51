-- metrics, status_json and status_page, for operators.

local native, parts = ...
local errors, host = parts.errors, parts.host
local concat, find, type, next = table.concat, string.find, type, next
local os = parts.globals.library("os")
local clock = os and os.clock

-- After this many seconds of CPU time a call lets the event loop do other work. A step between two checks
-- of the clock takes less than half a millisecond, so other requests wait less than 2 ms.
local SLICE = 0.001

local operators = { api = {} }
local api = operators.api

-- Collects the pieces of a text, or passes each to `write`. Between two pieces a host with an event loop
-- can do other work. Returns three functions. The first takes a piece. The second returns the text. The third lets
-- the host do other work if that is due; it is for a step that made no piece.
local function collector(write)
  local pieces, count, began = {}, 0, clock and clock()
  -- Without a clock a pause is always due.
  local function pause_if_due()
    if host.pause and not (clock and clock() - began <= SLICE) then
      host.pause()
      began = clock and clock()
    end
  end
  local function put(piece, ...)
    if write then
      write(piece, ...)
    else
      count = count + 1
      pieces[count] = piece
    end
    pause_if_due()
  end
  return put, function()
    return not write and concat(pieces) or nil
  end, pause_if_due
end

local function check_write(write, index, name)
  if write ~= nil and type(write) ~= "function" then
    errors.wrong_type(index, name, "function or nil", write, 1)
  end
end

-- Returns the text and its content type. With `write`, calls it with each piece of the text and the
-- content type, and returns the content type only.
function api.metrics(write)
  check_write(write, 1, "metrics")
  local content_type, config = native.metrics(host.may_probe())
  local put, text, pause_if_due = collector(write)
  local family, item, pieces = native.metrics_step(config, 0, 0)
  while family do
    for index = 1, #pieces do
      put(pieces[index], content_type)
    end
    -- Thousands of targets without certificates are hundreds of steps without a piece.
    pause_if_due()
    family, item, pieces = native.metrics_step(config, family, item)
  end
  if write then
    return content_type
  end
  return text(), content_type
end

-- Puts together a frame and the rows of its two lists. The arguments from the third on are those of the
-- native `frame`.
local function framed(write, frame, rows, ...)
  local put, text = collector(write)
  local config, before_targets, before_nodes, after_nodes = frame(...)
  local after = { [0] = before_nodes, after_nodes }
  put(before_targets)
  for list = 0, 1 do
    local some, item = rows(config, list, 0)
    while some do
      put(some)
      some, item = rows(config, list, item)
    end
    put(after[list])
  end
  return text()
end

-- Returns the text. With `write`, calls it with each piece of the text, and returns nothing.
function api.status_json(write)
  check_write(write, 1, "status_json")
  return framed(write, native.status_json_frame, native.status_json_rows, host.may_probe())
end

-- The options of status_page: the pattern that each must match, and the error otherwise. A nonce may only
-- have the characters that Content-Security-Policy allows.
local PAGE_OPTIONS = {
  nonce = { "^[A-Za-z0-9+/_-]+=?=?$", "nonce: text in Base64" },
  title = { "", "title: text" },
  json_url = { "", "json_url: text" },
}

local NO_OPTIONS = {}

-- Returns the text. With `write`, calls it with each piece of the text, and returns nothing.
function api.status_page(options, write)
  if options ~= nil and type(options) ~= "table" then
    errors.wrong_type(1, "status_page", "table or nil", options)
  end
  check_write(write, 2, "status_page")
  options = options or NO_OPTIONS
  -- Not a `for` over `next`: in a finaliser, LuaJIT's trace of such a loop never ends (see `fast.lua`).
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
  local nonce, title, json_url = options.nonce, options.title, options.json_url
  return framed(write, native.status_page_frame, native.status_page_rows, host.may_probe(), nonce, title, json_url)
end

return operators
