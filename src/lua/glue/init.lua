-- The module table: the functions of every part that has a table `api`.

local native, parts = ...
local next, type = next, type

local module = { _VERSION = native.version }

for _, part in next, parts do
  if type(part) == "table" and type(part.api) == "table" then
    for name, value in next, part.api do
      module[name] = value
    end
  end
end

return module
