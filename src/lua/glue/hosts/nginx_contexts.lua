-- Where the context of a request of nginx is kept: with its `ngx.ctx`.
--
-- A userdata that is finalised costs more than all a request does with it: while finalisers wait
-- to be run, LuaJIT leaves compiled code at each allocation. So contexts are used again where
-- that is certain to be seen by nobody. nginx's Lua module keeps each `ngx.ctx` under a number. A
-- request that had none and gets one now has the number of a request that ended, and its
-- context. One that a script has asked for is the script's, and is never used again.

local native, parts = ...
if not parts.nginx_wait then
  return nil
end

local rawget, rawset, setmetatable, type = rawget, rawset, setmetatable, type
local pcall, loaded = pcall, package.loaded
local fast = parts.fast

-- A key that no script can meet by chance, and of which a dump of `ngx.ctx` can say what it is.
local KEY = setmetatable({}, {
  __tostring = function()
    return "nauthilus_backend"
  end,
})

local contexts = {}
local ngx = loaded.ngx

-- The `ngx.ctx` of the current request, and whether it is made by this. Raises where nginx does.
function contexts.current()
  return ngx.ctx, false
end

-- `rawget`: nginx lets a request inherit the `ngx.ctx` of its connection's TLS handshake.
function contexts.of(ctx)
  return rawget(ctx, KEY)
end

local new_context = fast and fast.new_context or native.context_new

function contexts.make(ctx)
  local context = new_context()
  rawset(ctx, KEY, context)
  return context
end

function contexts.bind(ctx, context)
  rawset(ctx, KEY, context)
end

-- The script has the context of `ctx` from now on.
function contexts.keep() end

-- A function that gives the number of the current request's `ngx.ctx`, a negative one where it
-- has none, or where this version of nginx's Lua module cannot be asked in this way.
local function numbers()
  local base, library = loaded["resty.core.base"], parts.ffi.library
  local get_request = base.get_request
  local get_number = library.C.ngx_http_lua_ffi_get_ctx_ref
  local is_handshake, handshake = library.new("int[1]"), library.new("int[1]")
  -- Not known before the first request: calling it as it is not declared raises.
  local can_ask
  return function()
    local request = get_request()
    if can_ask == nil and request then
      can_ask = pcall(get_number, request, is_handshake, handshake)
    end
    return can_ask and request and get_number(request, is_handshake, handshake) or -1
  end
end

local can, number_of_ctx = pcall(numbers)
if not fast or not can then
  return contexts
end

local renew = fast.renew
-- Numbers above this had their turn in a crowd of requests and may not come again: their contexts
-- are left to the collector.
local MOST_SLOTS = 256
-- By number: a context, and the `ngx.ctx` it is for. Where those differ it is for another.
local slots, owners = {}, setmetatable({}, { __mode = "v" })

function contexts.current()
  local is_new = number_of_ctx() < 0
  return ngx.ctx, is_new
end

function contexts.of(ctx)
  local found = rawget(ctx, KEY)
  if type(found) == "number" then
    return owners[found] == ctx and slots[found] or nil
  end
  return found
end

function contexts.make(ctx, is_new)
  local number = is_new and number_of_ctx() or 0
  if number <= 0 or number > MOST_SLOTS then
    local context = new_context()
    rawset(ctx, KEY, context)
    return context
  end
  local context = slots[number]
  if not context or not renew(context) then
    context = new_context()
    slots[number] = context
  end
  owners[number] = ctx
  rawset(ctx, KEY, number)
  return context
end

function contexts.keep(ctx)
  local number = rawget(ctx, KEY)
  if type(number) == "number" and owners[number] == ctx then
    rawset(ctx, KEY, slots[number])
    slots[number] = nil
  end
end

return contexts
