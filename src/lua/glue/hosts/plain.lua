-- The adapter of hosts whose requests the module does not know: lua, LuaJIT, HAProxy, Dovecot. Each Lua
-- state has one default context; `with_context` replaces it while a function runs.

local native, parts = ...
local pcall, setmetatable = pcall, setmetatable
local with_context, current_context = native.with_context, native.current_context

local plain = {}

local own = native.context_new()

-- What is bound, in the form that `with_context.rs` describes: only natives change it. Each coroutine has its own
-- binding: it may yield while its function runs, and other coroutines then continue with other requests. Index 1 is
-- the current context if it is the same for all coroutines, else nil.
local by_coroutine = { __mode = "k" }
local bindings = { own, own, false, setmetatable({}, by_coroutine), setmetatable({}, by_coroutine), 0, 0, false, 0 }
plain.shared = bindings

-- Most states have no binding in a coroutine, and then reading index 1 is all that is done.
function plain.current_context()
  return bindings[1] or current_context(bindings)
end

-- With LuaJIT's FFI: the whole call at once for common arguments. The context is one that this adapter keeps.
local fast = parts.fast
if fast then
  local select, apply, remove = fast.select, fast.apply, fast.remove

  function plain.select_at_once(ip, port)
    return select(bindings[1] or current_context(bindings), nil, nil, ip, port)
  end

  function plain.apply_at_once(result)
    return apply(bindings[1] or current_context(bindings), nil, nil, result)
  end

  function plain.remove_at_once(names)
    return remove(bindings[1] or current_context(bindings), nil, nil, names)
  end
end

-- Called from C: makes `context` the default context from now on; nil restores the state's own.
function plain.bind(context)
  return native.default_context(bindings, context or own)
end

-- Runs fn(...) with `context` as the current one. An error of `fn` is raised again unchanged.
function plain.with_context(context, fn, ...)
  return with_context(bindings, context, fn, ...)
end

-- LuaJIT cannot yield across a native, so there a coroutine calls `fn` from Lua, and with `pcall`: an error of level 2
-- then gets no position, as where a native calls `fn`. A hook may raise at any instruction: what is bound inside of the
-- outer `pcall` is unbound there as well, and outside if there was an error. Only a hook that raises at the very
-- instruction after an error of `fn` leaves the coroutine its binding.
local bind, unbind, bound = native.bind_context, native.unbind_context, native.bound_context
if bind then
  local function enter(before, context, fn, ...)
    bind(bindings, context)
    return unbind(bindings, before, pcall(fn, ...))
  end

  function plain.with_context(context, fn, ...)
    local before, is_main = bound(bindings)
    if is_main then
      return with_context(bindings, context, fn, ...)
    end
    return unbind(bindings, before, pcall(enter, before, context, fn, ...))
  end
  bindings[8] = plain.with_context
end

-- Any process that calls the module may have an engine thread and probe.
function plain.may_probe()
  return true
end

-- No process configures on behalf of its children: each process that is forked configures itself.
function plain.is_head()
  return false
end

-- A blocking wait is possible anywhere.
function plain.require_wait() end

-- Waits by blocking the thread: `block(timeout)` returns whether the wait succeeded.
function plain.await(_, _, block, timeout)
  return block(timeout)
end

return plain
