-- Where the context of a request of nginx is kept: natively, found by the request, and where that
-- cannot be with its `ngx.ctx`.
--
-- A userdata that is finalised costs more than all a request does with it: while finalisers wait
-- to be run, LuaJIT leaves compiled code at each allocation. So each place has one userdata, for
-- all its requests, which no script is given: one that asks for the context gets its own.

local native, parts = ...
if not parts.nginx_wait then
  return nil
end

local error, pcall, rawget, rawset, require = error, pcall, rawget, rawset, require
local setmetatable, type = setmetatable, type
local jit = rawget(_G, "jit")
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

local share_context, become, is_context = native.context_share, native.context_become, native.is_context
local find_number = ffi.cast("int (*)(void *)", requests.find)
local find_ended = ffi.cast("int (*)(void *)", requests.find_ended)
local begin = ffi.cast("int (*)(void *)", requests.begin)
local begin_ended = ffi.cast("int (*)(void *)", requests.begin_ended)
local turn_of = ffi.cast("double (*)(int)", requests.turn)

-- By the number of a place: its context.
local places = {}

local function context_at(number)
  local context = places[number]
  if not context then
    context = requests.context(number)
    places[number] = context
  end
  return context
end

-- While a state is closed its finalisers may come here, and what nginx then gives as the request is
-- none any more. LuaJIT has its compiler switched off by then. So may a script have it: only an
-- exiting worker closes its state, or one that has a state for each request.
local jit_status, is_exiting = jit and jit.status, ngx.worker and ngx.worker.exiting
local was_on = jit_status and jit_status()
local closes_often = native.nginx and native.nginx.is_worker and native.nginx.is_worker()

local function is_closing()
  return was_on and not jit_status() and (closes_often or is_exiting and is_exiting())
end

-- The number of a request's place, 0 where it has none. The log phase comes after the end.
local function number_of(request)
  local number = find_number(request)
  if number == 0 and get_phase() == "log" and not is_closing() then
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
  return number ~= 0 and context_at(number) or nil, request
end

-- The phases whose request is none that nginx would tell of.
local no_place = { init = true, init_worker = true, exit_worker = true }

local function make_number(request)
  local phase = get_phase()
  if not request or no_place[phase] or is_closing() then
    error("no request in nginx's phase '" .. phase .. "'", 0)
  end
  local number
  if phase == "log" then
    number = begin_ended(request)
  else
    number = begin(request)
  end
  if number == 0 then
    error("nginx has no memory for a request's context", 0)
  end
  return number
end

function contexts.make(request)
  return context_at(make_number(request))
end

-- What was bound, or given to scripts, by number, as long as somebody has it; and whose turn it was.
local given, turns = setmetatable({}, { __mode = "v" }), {}

function contexts.bind(context)
  local request = get_request()
  local number = request and number_of(request) or 0
  if number == 0 then
    number = make_number(request)
  end
  context = context or new_context()
  become(context_at(number), context)
  given[number], turns[number] = context, turn_of(number)
end

-- It shares its data with the place's own until the request ends.
function contexts.keep(context)
  local number = number_of(get_request())
  if number == 0 then
    return context
  end
  local turn = turn_of(number)
  local one = turns[number] == turn and given[number]
  -- One may be finalised and still be reached, by other finalisers.
  if not one or not is_context(one) then
    one = share_context(context)
    given[number], turns[number] = one, turn
  end
  return one
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

-- Whether the current request may begin a context without being asked more. The phase alone decides:
-- the natives remember the answer.
function contexts.may_begin()
  return begins[get_phase()] or false
end

return contexts
