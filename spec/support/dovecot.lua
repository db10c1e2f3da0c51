--- A real Dovecot; dovecot.py says what it listens for.
--
--     local dovecot = require("spec.support.dovecot").new()
--     dovecot:start(); dovecot.imaps; dovecot.ca; dovecot:stop(); dovecot:quit()

local control = require("spec.support.control")

local Dovecot = {}
Dovecot.__index = Dovecot

function Dovecot.new()
  return setmetatable({ control = control.start("dovecot.py") }, Dovecot)
end

--- Starts it, on the same ports each time; its listeners' ports become fields.
function Dovecot:start()
  for key, value in pairs(self.control:call("start")) do
    self[key] = tonumber(value) or value
  end
end

function Dovecot:stop()
  self.control:call("stop")
end

--- Stops all its processes without ending them: the kernel still accepts connections.
function Dovecot:freeze()
  self.control:call("freeze")
end

function Dovecot:thaw()
  self.control:call("thaw")
end

function Dovecot:log()
  return self.control:call("log").text
end

function Dovecot:quit()
  self.control:stop()
end

return Dovecot
