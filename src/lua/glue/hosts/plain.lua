-- The adapter of hosts without requests of their own: lua, LuaJIT, HAProxy, Dovecot. There is
-- one default context per Lua state; `with_context` replaces it while a function runs.

local native, parts = ...
local error, pcall, setmetatable = error, pcall, setmetatable
local running = coroutine.running

local plain = {}

local own = native.context_new()
local default = own

-- A coroutine may yield while its function runs, and others go on with their own request: so
-- each has its own binding. The main thread cannot yield; what it binds is also for coroutines
-- that run meanwhile and have none.
local of_coroutine = setmetatable({}, { __mode = "k" })
local of_main
-- How many functions run under a coroutine's binding; an abandoned coroutine counts for ever.
local bound = 0
-- The current context where it is the same for all coroutines, nil where it is to be asked for:
-- each call counts where Lua is interpreted. Where it is compiled asking costs nothing.
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

-- What `with_context` made the current one, nil where it runs nothing.
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

-- Most states have bound nothing: they are not asked in a call of its own.
function plain.current_context()
  if bound > 0 then
    return bound_context() or default
  end
  return of_main or default
end

-- What a host binds from outside: the default context from now on; nil is the state's own.
function plain.bind(context)
  default = context or own
  if settle then
    settle()
  end
end

local function finish_main(before, ok, ...)
  of_main = before
  if settle then
    settle()
  end
  if not ok then
    error((...), 0)
  end
  return ...
end

local function finish_coroutine(thread, before, ok, ...)
  of_coroutine[thread] = before
  bound = bound - 1
  if settle then
    settle()
  end
  if not ok then
    error((...), 0)
  end
  return ...
end

-- Runs fn(...) with `context` as the current one; its error is passed on unchanged.
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

-- Threads and probes belong to any process that asks for servers.
function plain.may_probe()
  return true
end

-- A child configures for itself; nothing forked from it shares a configuration of its own.
function plain.is_head()
  return false
end

-- A blocking wait is possible anywhere.
function plain.require_wait() end

-- Waits until `poll()` is true, by `block(timeout)`, which returns whether it is.
function plain.await(_, _, block, timeout)
  return block(timeout)
end

return plain
