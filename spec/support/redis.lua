--- Real Redis servers; redis.py says what can be asked.
--
--     local redis = require("spec.support.redis").new()
--     local server = redis:start("one"); server.port
--     redis:cli("one", "HGETALL", key)

local control = require("spec.support.control")

local Redis = {}

function Redis.new()
  return setmetatable({ control = control.start("redis.py") }, Redis)
end

--- Any request of redis.py: redis:kill("one"), redis:start("one", { options = "--maxmemory|2mb" }).
function Redis.__index(_, command)
  return Redis[command] or function(self, name, values)
    local request = { name = name }
    for key, value in pairs(values or {}) do
      request[key] = value
    end
    local answer = self.control:call(command, request)
    answer.port = tonumber(answer.port)
    return answer
  end
end

function Redis:cli(name, ...)
  return self.control:call("cli", { name = name, args = table.concat({ ... }, "\t") }).text
end

function Redis:quit()
  self.control:stop()
end

return Redis
