-- Where the context of an nginx request is kept: in `nginx/requests.rs`, found by the address of the
-- request; or in the request's `ngx.ctx` if that is unavailable.
--
-- A userdata to finalise costs more than everything a request does with it: while finalisers are pending,
-- LuaJIT leaves compiled code at each allocation. So each place has one userdata, which all requests in
-- that place use. Scripts never get it, since they could keep it and see the context of a later request;
-- a script that asks for the context gets a userdata of its own (see `keep`).

local native, parts = ...
if not parts.nginx_wait then
  return nil
end

local error, pcall, rawget, rawset = error, pcall, rawget, rawset
local setmetatable, type = setmetatable, type
local globals = parts.globals
local jit, require, loaded = globals.library("jit"), globals.get("require"), globals.loaded
local ngx = loaded.ngx
local get_phase = ngx.get_phase
local new_context = parts.fast and parts.fast.new_context or native.context_new

local contexts = {}

-- A table as the key in `ngx.ctx` cannot collide with a script's keys; a dump of `ngx.ctx` shows its name.
local KEY = setmetatable({}, {
  __tostring = function()
    return "nauthilus_backend"
  end,
})

local past_init = false

-- Returns the context of the current request, or nil if it has none yet, and the argument for `make`.
-- Returns nil in a phase without a request, or raises nginx's own error.
function contexts.find()
  -- In phase `init` reading `ngx.ctx` raises. It is the first phase of a Lua state and never occurs again,
  -- so the check is skipped once it is over.
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

-- Makes a context for the current request, which has none.
function contexts.make(ctx)
  local context = new_context()
  rawset(ctx, KEY, context)
  return context
end

-- Makes `context` the context of the current request; nil gives it a new one of its own.
function contexts.bind(context)
  rawset(ngx.ctx, KEY, context)
end

-- The context of the current request as an object that a script may keep.
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

-- The userdata of each place, by its number.
local places = {}

local function context_at(number)
  local context = places[number]
  if not context then
    context = requests.context(number)
    places[number] = context
  end
  return context
end

-- While a Lua state is being closed, finalisers may call functions here, and the request that nginx then
-- returns no longer exists. LuaJIT has switched its compiler off by then. A script may have done that as
-- well, so it only counts in a worker that exits or has a state per request: no other closes a state.
local jit_status, is_exiting = jit and jit.status, ngx.worker and ngx.worker.exiting
local was_on = jit_status and jit_status()
local closes_often = native.nginx and native.nginx.is_worker and native.nginx.is_worker()

local function is_closing()
  return was_on and not jit_status() and (closes_often or is_exiting and is_exiting())
end

-- The number of a request's place, 0 if it has none. In the log phase the request has already ended.
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

-- The phases in which there is no request whose end nginx would report.
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

-- The userdata that were bound or given to scripts, by the number of the place, while they are reachable;
-- and the turn of the place at that time, which tells whether they belong to the present request.
local given, turns = setmetatable({}, { __mode = "v" }), {}

-- In this order a userdata never has a turn that is not its own, whatever interrupts this: otherwise `keep` could give
-- the userdata of an earlier request.
local function note_given(number, context, turn)
  given[number] = nil
  turns[number] = turn
  given[number] = context
end

function contexts.bind(context)
  local request = get_request()
  local number = request and number_of(request) or 0
  if number == 0 then
    number = make_number(request)
  end
  context = context or new_context()
  become(context_at(number), context)
  note_given(number, context, turn_of(number))
end

-- Returns a userdata that shares its data with the place's until the request ends; after that the script
-- keeps the data.
function contexts.keep(context)
  local number = number_of(get_request())
  if number == 0 then
    return context
  end
  local turn = turn_of(number)
  local one = turns[number] == turn and given[number]
  -- A finalised userdata may still be in the weak table when another finaliser calls this.
  if not one or not is_context(one) then
    one = share_context(context)
    note_given(number, one, turn)
  end
  return one
end

return contexts
