-- The adapter of hosts whose requests the module does not know: lua, LuaJIT, HAProxy, Dovecot. Each Lua
-- state has one default context; `with_context` replaces it while a function runs.

local native, parts = ...
local error, pcall, setmetatable = error, pcall, setmetatable
local running = coroutine.running

local plain = {}

local own = native.context_new()
local default = own

-- Each coroutine has its own binding: it may yield while its function runs, and other coroutines then
-- continue with other requests. The main thread cannot yield, so its binding also applies to coroutines
-- that it runs meanwhile and that have none.
local of_coroutine = setmetatable({}, { __mode = "k" })
local of_main
-- The number of functions that run under a coroutine's binding. A coroutine that is abandoned within
-- `with_context` is never subtracted; that only costs speed.
local bound = 0
-- Index 1 is the current context if it is the same for all coroutines, else nil; natives then need no call
-- of `current_context`. Only for interpreters: in compiled code that call costs nothing.
local shared = not parts.fast and { default } or nil
plain.shared = shared

local settle = shared and function()
  shared[1] = bound == 0 and (of_main or default) or nil
end

-- The running coroutine, nil for the main thread.
local function coroutine_running()
  local thread, is_main = running()
  if is_main then
    return nil
  end
  return thread
end

-- The context that `with_context` has bound, or nil.
function plain.bound_context()
  if bound > 0 then
    local thread = coroutine_running()
    local context = thread and of_coroutine[thread]
    if context then
      return context
    end
  end
  return of_main
end
local bound_context = plain.bound_context

-- Most states have no binding, and then this saves the call of `bound_context`.
function plain.current_context()
  if bound > 0 then
    return bound_context() or default
  end
  return of_main or default
end

-- With LuaJIT's FFI: the whole call at once for common arguments. The context is one that this adapter keeps.
local fast = parts.fast
if fast then
  local current_context = plain.current_context
  local select, apply, remove = fast.select, fast.apply, fast.remove

  function plain.select_at_once(ip, port)
    return select(current_context(), nil, nil, ip, port)
  end

  function plain.apply_at_once(result)
    return apply(current_context(), nil, nil, result)
  end

  function plain.remove_at_once(names)
    return remove(current_context(), nil, nil, names)
  end
end

-- Called from C: makes `context` the default context from now on; nil restores the state's own.
function plain.bind(context)
  default = context or own
  if settle then
    settle()
  end
end

-- The end of `with_context`, when the context from before is the current one again.
local function finish(ok, ...)
  if settle then
    settle()
  end
  if not ok then
    error((...), 0)
  end
  return ...
end

local function finish_main(before, ...)
  of_main = before
  return finish(...)
end

local function finish_coroutine(thread, before, ...)
  of_coroutine[thread] = before
  bound = bound - 1
  return finish(...)
end

-- Runs fn(...) with `context` as the current one. An error of `fn` is raised again unchanged.
function plain.with_context(context, fn, ...)
  local thread = coroutine_running()
  if thread == nil then
    local before = of_main
    of_main = context
    if settle then
      settle()
    end
    return finish_main(before, pcall(fn, ...))
  end
  local before = of_coroutine[thread]
  of_coroutine[thread] = context
  bound = bound + 1
  if settle then
    settle()
  end
  return finish_coroutine(thread, before, pcall(fn, ...))
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
