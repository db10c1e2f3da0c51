-- The adapter of nginx with its Lua module (OpenResty).
--
-- Each request has its own context, made on first use; so does each subrequest.

local native, parts = ...
local plain, wait = parts.plain, parts.nginx_wait
if not wait then
  return nil
end

local error, setmetatable = error, setmetatable
local ngx = parts.globals.loaded.ngx
local get_phase = ngx.get_phase
local contexts, headers = parts.nginx_contexts, parts.nginx_headers
local find_context, make_context = contexts.find, contexts.make
local is_http = ngx.config.subsystem == "http"
local is_worker = native.nginx and native.nginx.is_worker

local nginx = setmetatable({}, { __index = wait })

-- The phases in which there is no request, or none with a response.
local no_response = {
  init = true,
  init_worker = true,
  timer = true,
  ssl_cert = true,
  ssl_client_hello = true,
  ssl_session_fetch = true,
  ssl_session_store = true,
  exit_worker = true,
}

local publish = is_http and headers.publish or nil
local setter = is_http and headers.setter or nil
local get_request = headers.get_request

-- The context that `with_context` has bound, or false: each request has its own default context.
local bindings, own_context = plain.shared, native.own_context
native.default_context(bindings, false)

local function bound_context()
  local context = bindings[1]
  if context == nil then
    context = own_context(bindings)
  end
  return context
end

-- Level 4 is the script: a function of the API calls `current_context`, which calls this.
local function refuse(name, why)
  error((name and name .. ": " or "") .. why, 4)
end

-- An empty context, for functions that only read, in a request without a context.
local nothing = native.context_new()

function nginx.current_context(name, is_asked_for)
  local bound = bound_context()
  if bound then
    return bound
  end
  local context, request = find_context()
  if not context then
    local phase = get_phase()
    if no_response[phase] or not request then
      refuse(name, "no request in nginx's phase '" .. phase .. "'")
    end
  end
  if name and is_http and ngx.headers_sent then
    refuse(name, "the response headers were already sent, in nginx's phase '" .. get_phase() .. "'")
  end
  if not context then
    context = (name or is_asked_for) and make_context(request) or nothing
  end
  return context, publish
end

-- With LuaJIT's FFI: the whole call at once, for common arguments and the request's own context. A function that
-- runs under a context of its own is left to the natives.
if setter then
  local select, apply, remove = parts.fast.select, parts.fast.apply, parts.fast.remove

  function nginx.select_at_once(ip, port)
    local request = not bound_context() and get_request()
    return request and select(nil, setter, request, ip, port)
  end

  function nginx.apply_at_once(result)
    local request = not bound_context() and get_request()
    return request and apply(nil, setter, request, result)
  end

  function nginx.remove_at_once(names)
    local request = not bound_context() and get_request()
    return request and remove(nil, setter, request, names)
  end
end

-- Binds for the rest of the request.
function nginx.bind(context)
  contexts.bind(context)
end

function nginx.keep_context(context)
  return bound_context() or contexts.keep(context)
end

nginx.with_context = plain.with_context

-- The head is the master, which runs `init_by_lua` at its start and at each reload. With
-- `lua_code_cache off` a worker also runs it, for each request; that is not the head.
function nginx.is_head()
  return get_phase() == "init" and not (is_worker and is_worker())
end

-- The master only configures, so that the workers inherit the shared table. It never probes and has no
-- engine thread.
function nginx.may_probe()
  return not nginx.is_head()
end

return nginx
