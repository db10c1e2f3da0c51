-- The adapter of hosts whose requests the module does not know: lua, LuaJIT, HAProxy, Dovecot. Each Lua
-- state has one default context; `with_context` replaces it while a function runs.

local native, parts = ...
local error, next, pcall, setmetatable = error, next, pcall, setmetatable
local running, status = coroutine.running, coroutine.status

local plain = {}

local own = native.context_new()
local default = own

-- Each coroutine has its own binding: it may yield while its function runs, and other coroutines then
-- continue with other requests. The main thread cannot yield, so its binding also applies to coroutines
-- that it runs meanwhile and that have none.
local of_coroutine = setmetatable({}, { __mode = "k" })
local of_main
-- The number of coroutines that have a binding. One that is collected within `with_context` is never
-- subtracted; that only costs speed.
local bound = 0
-- For each coroutine the number of its last binding, to tell the latest.
local turn_of, turn = setmetatable({}, { __mode = "k" }), 0
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

local function bind_main(context)
  of_main = context
  if settle then
    settle()
  end
end

-- Gives a coroutine another binding; nil: none.
local function bind_coroutine(thread, context)
  local before = of_coroutine[thread]
  turn = turn + 1
  of_coroutine[thread], turn_of[thread] = context, turn
  bound = bound + (context and 1 or 0) - (before and 1 or 0)
  if settle then
    settle()
  end
end

-- The context that `with_context` has bound for the running coroutine, or nil. `is_inside(thread)`, if given, tells
-- whether the coroutine still runs the function: nginx leaves functions without returning from them.
function plain.bound_context(is_inside)
  if bound > 0 then
    local thread = coroutine_running()
    local context = thread and of_coroutine[thread]
    if context then
      if not is_inside or is_inside(thread) then
        return context
      end
      bind_coroutine(thread, nil)
    end
  end
  return of_main
end

-- The latest binding of a coroutine that waits until the running one yields or ends; nil if there is none.
local function inherited_context()
  local latest, found = 0, nil
  for thread, context in next, of_coroutine do
    if turn_of[thread] > latest and status(thread) == "normal" then
      latest, found = turn_of[thread], context
    end
  end
  return found
end

-- Most states have no binding, and then this is all that is done.
function plain.current_context()
  if bound > 0 then
    return plain.bound_context() or inherited_context() or default
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
  if not ok then
    error((...), 0)
  end
  return ...
end

local function finish_main(before, ...)
  bind_main(before)
  return finish(...)
end

local function finish_coroutine(thread, before, ...)
  bind_coroutine(thread, before)
  return finish(...)
end

-- Runs fn(...) with `context` as the current one. An error of `fn` is raised again unchanged.
function plain.with_context(context, fn, ...)
  local thread = coroutine_running()
  if thread == nil then
    local before = of_main
    bind_main(context)
    return finish_main(before, pcall(fn, ...))
  end
  local before = of_coroutine[thread]
  bind_coroutine(thread, context)
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
