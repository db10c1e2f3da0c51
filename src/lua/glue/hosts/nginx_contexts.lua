-- Where the context of a request of nginx is kept: natively, found by the request, and where that
-- cannot be with its `ngx.ctx`.
--
-- A userdata that is finalised costs more than all a request does with it: while finalisers wait
-- to be run, LuaJIT leaves compiled code at each allocation. So a context is used again for a
-- later request, where that is certain to be seen by nobody: one that a script has asked for is the
-- script's, and is never used again.

local native, parts = ...
if not parts.nginx_wait then
  return nil
end

local pcall, rawget, rawset, require = pcall, rawget, rawset, require
local setmetatable, type = setmetatable, type
local loaded = package.loaded
local ngx = loaded.ngx
local get_phase = ngx.get_phase
local new_context = parts.fast and parts.fast.new_context or native.context_new

local contexts = {}

-- A key that no script can meet by chance, and of which a dump of `ngx.ctx` can say what it is.
local KEY = setmetatable({}, {
  __tostring = function()
    return "nauthilus_backend"
  end,
})

local past_init = false

-- The context of the current request, nil where it has none yet, and what `make` is to know;
-- nil, nil in a phase without a request. May raise what nginx raises there.
function contexts.find()
  -- `init` has no `ngx.ctx` at all, and asking for it raises. It is the first phase of a state,
  -- and does not come again.
  if not past_init then
    if get_phase() == "init" then
      return nil
    end
    past_init = true
  end
  local ctx = ngx.ctx
  -- `rawget`: nginx lets a request inherit the `ngx.ctx` of its connection's TLS handshake.
  return rawget(ctx, KEY), ctx
end

-- A context for the current request, which has none.
function contexts.make(ctx)
  local context = new_context()
  rawset(ctx, KEY, context)
  return context
end

-- Makes `context` the one of the current request, nil one of its own.
function contexts.bind(context)
  rawset(ngx.ctx, KEY, context)
end

-- The context of the current request as a script may have it.
function contexts.keep(context)
  return context
end

local requests, base = native.nginx_requests, loaded["resty.core.base"]
local has_ffi, ffi = pcall(require, "ffi")
local get_request = type(base) == "table" and base.get_request
if not requests or not has_ffi or not get_request or ngx.config.subsystem ~= "http" then
  return contexts
end

local take_context = native.context_take
local find_number = ffi.cast("int (*)(void *)", requests.find)
local find_ended = ffi.cast("int (*)(void *)", requests.find_ended)
local begin = ffi.cast("int (*)(void *)", requests.begin)
local begin_ended = ffi.cast("int (*)(void *)", requests.begin_ended)

-- By the number of a place: what acts on it, and, where that is somebody's own, the userdata of the
-- place.
local acting, places = {}, {}

-- The number of a request's place, 0 where it has none. The log phase comes after the end.
local function number_of(request)
  local number = find_number(request)
  if number == 0 and get_phase() == "log" then
    return find_ended(request)
  end
  return number
end

function contexts.find()
  local request = get_request()
  if not request then
    return nil
  end
  local number = number_of(request)
  if number == 0 then
    return nil, request
  end
  return acting[number], request
end

local function make(request)
  local number
  if get_phase() == "log" then
    number = begin_ended(request)
  else
    number = begin(request)
  end
  -- Where nginx has no memory.
  if number == 0 then
    return new_context(), number
  end
  -- What was somebody's own in an earlier request stays that.
  local context = places[number]
  if context then
    places[number] = nil
  else
    context = acting[number] or requests.context(number)
  end
  acting[number] = context
  return context, number
end

function contexts.make(request)
  return (make(request))
end

-- Has `context`, which is somebody's own, act for the place.
local function lend(number, context)
  places[number] = places[number] or acting[number]
  acting[number] = context
end

function contexts.bind(context)
  local request = get_request()
  local number = find_number(request)
  if number == 0 then
    local _
    _, number = make(request)
  end
  if number ~= 0 then
    lend(number, context or new_context())
  end
end

function contexts.keep(context)
  local number = number_of(get_request())
  if number == 0 or places[number] then
    return context
  end
  local own = take_context(context)
  lend(number, own)
  return own
end

return contexts
