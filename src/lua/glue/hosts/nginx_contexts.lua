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
local lend = ffi.cast("int (*)(int)", requests.lend)

-- By the number of a place: its own context, and the one that acts for it where it is lent, which
-- a negative number says.
local own, borrowed = {}, {}

local function context_at(number)
  if number < 0 then
    return borrowed[-number]
  end
  local context = own[number]
  if not context then
    context = requests.context(number)
    own[number] = context
  end
  return context
end

-- The number of a request's place, 0 where it has none. The log phase comes after the end.
local function number_of(request)
  local number = find_number(request)
  if number == 0 and get_phase() == "log" then
    return find_ended(request)
  end
  return number
end

local function make_number(request)
  if get_phase() == "log" then
    return begin_ended(request)
  end
  return begin(request)
end

function contexts.find()
  local request = get_request()
  if not request then
    return nil
  end
  local number = number_of(request)
  return number ~= 0 and context_at(number) or nil, request
end

function contexts.make(request)
  local number = make_number(request)
  -- None where nginx has no memory.
  return number ~= 0 and context_at(number) or new_context()
end

-- What acts for a place is somebody's, and stays that in later requests.
local function act(number, context)
  if number > 0 and lend(number) < 0 then
    borrowed[number] = context
  elseif number < 0 then
    borrowed[-number] = context
  end
end

function contexts.bind(context)
  local request = get_request()
  local number = number_of(request)
  act(number ~= 0 and number or make_number(request), context or new_context())
end

function contexts.keep(context)
  local number = number_of(get_request())
  if number <= 0 then
    return context
  end
  local kept = take_context(context)
  act(number, kept)
  return kept
end

-- The phases in which a request that has no context gets one without being asked about it: it
-- answers, and nginx tells of its end.
local begins = {
  set = true,
  server_rewrite = true,
  rewrite = true,
  access = true,
  content = true,
  header_filter = true,
  balancer = true,
}

-- Whether the current request may begin a context without being asked more.
function contexts.may_begin()
  return begins[get_phase()] or false
end

return contexts
