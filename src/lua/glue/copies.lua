-- Copies of an array for the price of an empty one of its size, in LuaJIT.
--
-- A constructor of constants is a single instruction, which duplicates a template that its function
-- keeps. What `jit.util` shows of the function is the template itself: what is put into that is in
-- each table which the function returns, and compiled code makes it by one call, without a loop.

local _, parts = ...
if not parts.ffi.jit then
  return nil
end

local pcall, require, type = pcall, require, type
local loadstring = rawget(_G, "loadstring")
local dump, rep = string.dump, string.rep
local found, util = pcall(require, "jit.util")

local copies = {}

-- Where other sizes are wanted a loop has to do. A trace is of one size: they are to stay few.
local LONGEST, MOST_SIZES = 256, 8

local sizes = 0
local functions, templates = {}, {}

local function make(count)
  local source = loadstring("return {" .. rep("0,", count) .. "}")
  -- Read from bytecode a template is as long as it has to be, from source up to twice as long.
  local copy = loadstring(dump(source))
  local template = util.funck(copy, -1)
  template[1] = template
  local made = copy()
  if made == template or made[1] ~= template or #made ~= count then
    return nil
  end
  template[1] = 0
  return copy, template
end

-- A function that returns copies of an array of this length, and the array; nil where there is
-- none. All who ask for a length get the same.
function copies.of_length(count)
  if functions[count] == nil then
    if not found or count < 1 or count > LONGEST or sizes == MOST_SIZES then
      return nil
    end
    sizes = sizes + 1
    local done, copy, template = pcall(make, count)
    functions[count], templates[count] = done and type(copy) == "function" and copy, template
  end
  return functions[count] or nil, templates[count]
end

return copies
