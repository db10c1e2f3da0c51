-- Copies of an array of userdata for the price of an empty one of its size, in LuaJIT.
--
-- A constructor of constants is a single instruction, which duplicates a template that its function
-- keeps. What `jit.util` shows of the function is the template itself: what is put into that is in
-- each table which the function returns, and compiled code makes it by one call, without a loop.
-- Userdata alone: what else is in a template, compiled code may take for the constant it was.

local _, parts = ...
if not parts.ffi.jit then
  return nil
end

local pcall, require, type = pcall, require, type
local loadstring = rawget(_G, "loadstring")
local dump, rep = string.dump, string.rep
local found, util = pcall(require, "jit.util")

local copies = {}

-- Where other lengths are wanted a loop has to do. A trace is of one length: they are to stay few.
-- What a template held last lives as long as this state.
local LONGEST, MOST_LENGTHS = 256, 32

local lengths = 0
local functions, templates = {}, {}

local function make(length)
  local source = loadstring("return {" .. rep("0,", length) .. "}")
  -- Read from bytecode a template is as long as it has to be, from source up to twice as long.
  local copy = loadstring(dump(source))
  return copy, util.funck(copy, -1)
end

-- Tried once, as a host may lack or replace any of this.
local function works()
  local copy, template = make(3)
  template[2] = template
  local made = copy()
  return made ~= template and made[2] == template and #made == 3 and #template == 3
end

local tried, worked = pcall(works)
local can_make = found and tried and worked

-- A function that returns copies of the list as it is now, until another list of its length is given
-- here; nil where there is none.
function copies.of(list, length)
  if not (functions[length] and templates[length]) then
    if not can_make or length < 1 or length > LONGEST or lengths == MOST_LENGTHS then
      return nil
    end
    lengths = lengths + 1
    functions[length], templates[length] = make(length)
  end
  local template = templates[length]
  for index = 1, length do
    local item = list[index]
    if type(item) ~= "userdata" then
      return nil
    end
    template[index] = item
  end
  return functions[length]
end

return copies
