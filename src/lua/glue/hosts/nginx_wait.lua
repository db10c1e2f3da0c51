-- Waiting in nginx: a coroutine sleeps while the event loop goes on.
--
-- A wait for a check sleeps on a semaphore that is posted when the check completes (see
-- src/lua/nginx/waits.rs). Any other wait, and a wait in an nginx without the symbols for that, polls with
-- growing pauses.

local native, parts = ...
local raise = parts.errors.raise
local pcall, tonumber, type = pcall, tonumber, type

local loaded, require = parts.globals.loaded, parts.globals.get("require")
local ngx = loaded.ngx
if type(ngx) ~= "table" or not ngx.get_phase then
  return nil
end

local math = parts.globals.library("math")
local max, min = math.max, math.min
local get_phase, sleep, now = ngx.get_phase, ngx.sleep, ngx.now
local is_exiting = ngx.worker and ngx.worker.exiting

local wait = {}

-- The phases in which Lua cannot yield. In two phases of the TLS handshake (`ssl_client_hello`,
-- `ssl_session_fetch`) it can in an nginx with OpenResty's patches, whose presence cannot be detected;
-- without them the handshake fails or the coroutine never resumes, so they are listed. In a phase that
-- is not listed and cannot yield either, `ngx.sleep` raises.
local no_wait = {
  init = true,
  init_worker = true,
  set = true,
  header_filter = true,
  body_filter = true,
  log = true,
  balancer = true,
  ssl_client_hello = true,
  ssl_session_fetch = true,
  ssl_session_store = true,
  exit_worker = true,
}

-- Raises in a phase that cannot wait. `name` is the API's function that calls this; `up` is the number of
-- functions in between.
function wait.require_wait(name, up)
  local phase = get_phase()
  if no_wait[phase] then
    raise(name, "cannot wait in nginx's phase '" .. phase .. "'", 1 + (up or 0))
  end
end

-- The phases in which a function that usually does not wait may let other requests run.
local may_pause = { rewrite = true, access = true, content = true, timer = true }

function wait.pause()
  if may_pause[get_phase()] then
    -- Not 0: nginx runs timers that are due until there are none, and a new one of 0 ms is due at once, so
    -- that no other request would run in between.
    sleep(0.001)
  end
end

-- The limits of the pause between two polls, in seconds. The pause is an eighth of the time waited so far.
local FIRST_PAUSE, LAST_PAUSE = 0.001, 0.05

local function await_polling(poll, timeout)
  local start = now()
  while not poll() do
    local elapsed = now() - start
    local left = timeout and timeout - elapsed
    -- An exiting worker stays until its coroutines have ended, so a wait must not delay it.
    if (left and left <= 0) or (is_exiting and is_exiting()) then
      return poll()
    end
    local pause = min(max(elapsed / 8, FIRST_PAUSE), LAST_PAUSE)
    sleep(left and min(pause, max(left, FIRST_PAUSE)) or pause)
  end
  return true
end

-- Replaced below where semaphores can be used.
function wait.await(_, poll, _, timeout)
  return await_polling(poll, timeout)
end

-- The rest needs nginx's symbols, the FFI and semaphores of lua-resty-core in the http subsystem.

local own = native.nginx
local base = loaded["resty.core.base"]
local has_ffi, ffi = pcall(require, "ffi")
local has_semaphores, semaphores = pcall(require, "ngx.semaphore")
if not (own and own.wait_check and has_ffi and has_semaphores and type(base) == "table"
  and base.get_request and ngx.config.subsystem == "http") then
  return wait
end

local wait_begin, wait_end, waits_released = own.wait_begin, own.wait_end, own.waits_released
local wait_check, wait_check_at, wait_take = own.wait_check, own.wait_check_at, own.wait_take
local get_request, new_semaphore = base.get_request, semaphores.new
local cast, address_type = ffi.cast, ffi.typeof("uintptr_t")

local function address_of(pointer)
  return tonumber(cast(address_type, pointer))
end

-- Semaphores with their addresses: the free ones, those of waits by the number of the wait, and all. The
-- native may post the semaphore of a wait whose coroutine was already collected, so `all` keeps every
-- semaphore from being collected.
local free, in_use, all = {}, {}, {}

local function give_back(entry)
  local semaphore = entry.semaphore
  -- The check may have completed just after the wait timed out: the next user must not see that post.
  while semaphore:count() > 0 and semaphore:wait(0) do
  end
  free[#free + 1] = entry
end

local function take_back_released()
  local released = waits_released() or {}
  for index = 1, #released do
    local number = released[index]
    local entry = in_use[number]
    if entry then
      in_use[number] = nil
      give_back(entry)
    end
  end
end

-- A free or new semaphore; nil if nginx has no memory for one.
local function take_semaphore()
  if #free == 0 then
    take_back_released()
  end
  local count = #free
  local entry = free[count]
  if entry then
    free[count] = nil
    return entry
  end
  local semaphore = new_semaphore(0)
  if not semaphore then
    return nil
  end
  entry = { semaphore = semaphore, address = address_of(semaphore.sem) }
  all[#all + 1] = entry
  return entry
end

-- Limits of one sleep in seconds. nginx takes whole milliseconds as an int: with 0 it would not yield, and
-- the cached time of `now` would never advance; 3600 stays within an int, and the wait is then renewed.
local SHORTEST, LONGEST = 0.001, 3600

function wait.await(_, poll, _, timeout, handle)
  local entry = handle and take_semaphore()
  local number = entry and wait_begin(entry.address, address_of(get_request()), handle)
  if not number then
    if entry then
      free[#free + 1] = entry
    end
    return await_polling(poll, timeout)
  end
  in_use[number] = entry
  local semaphore = entry.semaphore
  local start = timeout and now()
  local done
  repeat
    local left = timeout and timeout - (now() - start) or LONGEST
    local posted, problem = semaphore:wait(max(min(left, LONGEST), SHORTEST))
    done = poll()
    local over = not posted and (problem ~= "timeout" or (timeout and now() - start >= timeout))
  until done or over
  wait_end(number)
  in_use[number] = nil
  give_back(entry)
  return done
end

-- Starts a check whose handle no script gets. The native keeps it with its wait, so that no userdata has to
-- be made for it.
-- `begin` is one of the two natives that start such a check.
local function start_own(begin, ...)
  local entry = take_semaphore()
  if not entry then
    return nil
  end
  local number, problem = begin(entry.address, address_of(get_request()), ...)
  if number then
    in_use[number] = entry
  else
    free[#free + 1] = entry
  end
  return number, problem
end

wait.own = {}

-- Returns the number of the wait; nil and what is wrong with the table; or nil alone if no such wait is
-- possible.
function wait.own.start(target)
  return start_own(wait_check, target)
end

function wait.own.start_at(ip, port, haproxy_v2, tls)
  return start_own(wait_check_at, ip, port, haproxy_v2, tls)
end

-- Waits until the check of the wait with this number is done; returns the reason if it failed, or nil.
function wait.own.finish(number)
  local entry = in_use[number]
  local semaphore = entry.semaphore
  local done, reason
  repeat
    local posted, problem = semaphore:wait(LONGEST)
    done, reason = wait_take(number)
    if not (done or posted or problem == "timeout") then
      wait_end(number)
      done, reason = true, "internal: " .. problem
    end
  until done
  in_use[number] = nil
  give_back(entry)
  return reason
end

return wait
