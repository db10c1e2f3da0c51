-- Waits for what the engine thread does, and makes the objects of start_check and start_route.

local native, parts = ...
local errors, host = parts.errors, parts.host
local setmetatable, type = setmetatable, type
local check_wait = native.check_wait

local waiting = {}

-- Raises unless `timeout` is a number of seconds from 0, or nil for no limit.
local function check_timeout(index, name, timeout)
  if timeout ~= nil and (type(timeout) ~= "number" or timeout < 0 or timeout ~= timeout) then
    errors.wrong_value(index, name, "number of seconds from 0", timeout, 1)
  end
end
waiting.check_timeout = check_timeout

-- Waits in the host's way until poll() is true, at most `timeout` seconds; returns whether it is. `handle` is
-- what is waited for, `name` the function of the API that waits.
local function until_done(name, handle, poll, timeout)
  local function block(seconds)
    check_wait(handle, seconds)
    return poll()
  end
  return poll() or host.await(name, poll, block, timeout, handle) or poll()
end
waiting.until_done = until_done

-- A class of objects that stand for a handle, with the methods done, fd, wait and cancel. is_done(handle) is
-- whether it is done. Returns a function that makes an object, the table of methods, and a function that
-- returns the handle of `self` or raises; the latter is called by a method with the method's name.
function waiting.class(class_name, is_done)
  local methods = {}
  local class = { __index = methods, __name = class_name, __metatable = false }

  local function handle_of(object, name)
    local handle = type(object) == "table" and object.handle
    if not handle then
      errors.bad_self(name, class_name, object, 1)
    end
    return handle
  end

  function methods:done()
    local handle = handle_of(self, "done")
    return is_done(handle)
  end

  function methods:fd()
    local handle = handle_of(self, "fd")
    return native.check_fd(handle)
  end

  function methods:wait(timeout)
    local handle = handle_of(self, "wait")
    check_timeout(1, "wait", timeout)
    local function poll()
      return is_done(handle)
    end
    if not poll() then
      host.require_wait("wait")
      if not until_done("wait", handle, poll, timeout) then
        return nil, "timeout"
      end
    end
    return true
  end

  function methods:cancel()
    native.check_cancel(handle_of(self, "cancel"))
  end

  local function new(handle)
    return setmetatable({ handle = handle }, class)
  end
  return new, methods, handle_of
end

return waiting
