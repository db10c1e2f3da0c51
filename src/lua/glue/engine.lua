-- configure, start, stop, wait_ready, status, report_failure, is_health_check.

local native, parts = ...
local errors, host, check_timeout = parts.errors, parts.host, parts.waiting.check_timeout
local type, tonumber, gsub = type, tonumber, string.gsub

local engine = { api = {} }
local api = engine.api

function api.configure(config)
  local kind = type(config)
  if kind ~= "table" and kind ~= "string" then
    errors.wrong_type(1, "configure", "table or path of a YAML file", config)
  end
  local problem = native.configure(config, host.is_head())
  if problem then
    errors.bad_argument(1, "configure", problem)
  end
end

-- true, or nil and why the engine thread cannot start.
function api.start()
  if not host.may_probe() then
    return true
  end
  local problem = native.start()
  if problem then
    return nil, problem
  end
  return true
end

function api.stop()
  native.stop()
end

function api.wait_ready(timeout)
  check_timeout(1, "wait_ready", timeout)
  local ready, problem = native.is_ready(host.may_probe())
  if problem then
    return nil, problem
  end
  if ready then
    return true
  end
  host.require_wait("wait_ready")
  -- The wait also ends if it is in vain.
  local function poll()
    ready, problem = native.is_ready(true)
    return ready or problem ~= nil
  end
  local function block(seconds)
    ready, problem = native.wait_ready(seconds)
    return ready or problem ~= nil
  end
  host.await("wait_ready", poll, block, timeout)
  if ready then
    return true
  end
  return nil, problem or "timeout"
end

function api.status()
  return native.status(host.may_probe())
end

-- An integer from 1 to 65535 as Lua coerces it, or nil.
local function port_of(value)
  local number = value
  if type(value) ~= "number" then
    number = type(value) == "string" and tonumber(value)
  end
  if number and number >= 1 and number <= 65535 and number % 1 == 0 then
    return number
  end
  return nil
end
engine.port_of = port_of

function api.report_failure(ip, port, reason)
  if type(ip) ~= "string" then
    errors.wrong_type(1, "report_failure", "string", ip)
  end
  local number = port_of(port)
  if not number then
    errors.wrong_value(2, "report_failure", "integer 1..65535", port)
  end
  if reason ~= nil and type(reason) ~= "string" then
    errors.wrong_type(3, "report_failure", "string or nil", reason)
  end
  local bare = gsub(ip, "^%[(.*)%]$", "%1")
  return native.report_failure(bare, number, host.may_probe())
end

function api.is_health_check(username)
  if type(username) ~= "string" then
    errors.wrong_type(1, "is_health_check", "string", username)
  end
  return native.is_health_check(username)
end

return engine
