-- Waiting in nginx: a coroutine sleeps, the event loop goes on.
--
-- For a check: on a semaphore that is posted the moment the check is done (see
-- src/lua/nginx/waits.rs). For anything else, and where nginx lacks what that needs: by looking
-- again and again, less often the longer it takes.

local native, parts = ...
local raise = parts.errors.raise
local pcall, require, tonumber, type = pcall, require, tonumber, type
local max, min = math.max, math.min

local package = package
local ngx = type(package) == "table" and package.loaded.ngx
if type(ngx) ~= "table" or not ngx.get_phase then
  return nil
end

local get_phase, sleep, now = ngx.get_phase, ngx.sleep, ngx.now
local is_exiting = ngx.worker and ngx.worker.exiting

local wait = {}

-- The phases whose Lua cannot yield. In two of the TLS handshake it can only in an nginx with
-- OpenResty's patches, which nothing tells of: without them the handshake fails or the coroutine
-- never runs again, so they count as well. Of phases that nginx may yet get, `ngx.sleep` knows.
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

-- Raises in a phase that cannot wait, for the API's function `name`, which called this; `up`
-- counts the functions in between.
function wait.require_wait(name, up)
  local phase = get_phase()
  if no_wait[phase] then
    raise(name, "cannot wait in nginx's phase '" .. phase .. "'", 1 + (up or 0))
  end
end

-- Looks at growing distances, in seconds: an eighth of the time it took so far.
local FIRST_PAUSE, LAST_PAUSE = 0.001, 0.05

local function await_looking(poll, timeout)
  local start = now()
  while not poll() do
    local elapsed = now() - start
    local left = timeout and timeout - elapsed
    -- A worker that exits waits for its coroutines, and those that wait for others are last.
    if (left and left <= 0) or (is_exiting and is_exiting()) then
      return poll()
    end
    local pause = min(max(elapsed / 8, FIRST_PAUSE), LAST_PAUSE)
    sleep(left and min(pause, max(left, FIRST_PAUSE)) or pause)
  end
  return true
end

-- For a wait without a check.
function wait.await(_, poll, _, timeout)
  return await_looking(poll, timeout)
end

-- The rest is for checks, where all that it needs is there.

local own = native.nginx
local base = package.loaded["resty.core.base"]
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

-- Semaphores and their addresses: those that nobody waits on, those of waits by their numbers, and
-- all there are. The engine may post those of waits, so none is ever collected, even where the
-- coroutine that waits is.
local free, held, all = {}, {}, {}

local function give_back(entry)
  local semaphore = entry.semaphore
  -- A check may have ended just after the wait for it did.
  while semaphore:count() > 0 and semaphore:wait(0) do
  end
  free[#free + 1] = entry
end

local function take_back_released()
  local released = waits_released() or {}
  for index = 1, #released do
    local number = released[index]
    local entry = held[number]
    if entry then
      held[number] = nil
      give_back(entry)
    end
  end
end

-- nil where nginx has no memory for one.
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

-- nginx takes whole milliseconds, as an int: with none it would not yield, and the time that
-- `now` shows would stand still. Nothing is lost by looking once in an hour.
local SHORTEST, LONGEST = 0.001, 3600

function wait.await(_, poll, _, timeout, handle)
  local entry = handle and take_semaphore()
  local number = entry and wait_begin(entry.address, address_of(get_request()), handle)
  if not number then
    if entry then
      free[#free + 1] = entry
    end
    return await_looking(poll, timeout)
  end
  held[number] = entry
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
  held[number] = nil
  give_back(entry)
  return done
end

-- A check that no script has belongs to its wait: so it needs no object of Lua's. `begin` is one
-- of the two natives that start such a check.
local function start_own(begin, ...)
  local entry = take_semaphore()
  if not entry then
    return nil
  end
  local number, problem = begin(entry.address, address_of(get_request()), ...)
  if number then
    held[number] = entry
  else
    free[#free + 1] = entry
  end
  return number, problem
end

wait.own = {}

-- A number, or nil and what is wrong with the table, or nil where nginx cannot wait like this.
function wait.own.start(target)
  return start_own(wait_check, target)
end

function wait.own.start_at(ip, port, haproxy_v2, tls)
  return start_own(wait_check_at, ip, port, haproxy_v2, tls)
end

-- Waits for the check of that number: the reason of its failure, or nil.
function wait.own.finish(number)
  local entry = held[number]
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
  held[number] = nil
  give_back(entry)
  return reason
end

return wait
