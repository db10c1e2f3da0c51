-- Runs spec files where busted does not run: its C modules do not exist for Lua 5.5. Prints TAP.
--
--     lua5.5 tests/lua5.5/specs.lua spec/result_spec.lua ...
--
-- What the specs use of busted is here. The assertions are luassert's, which is plain Lua: Debian's
-- package has it below share/lua/5.4.

package.path = "./?.lua;/usr/share/lua/5.4/?.lua;/usr/share/lua/5.4/?/init.lua;" .. package.path

-- What the specs ask of LuaFileSystem.
package.preload.lfs = function()
  local function lines_of(command)
    local pipe = assert(io.popen(command))
    local lines = {}
    for line in pipe:lines() do
      lines[#lines + 1] = line
    end
    pipe:close()
    return lines
  end
  return {
    currentdir = function()
      return lines_of("pwd")[1]
    end,
    -- The pipe is a descriptor more in /proc/self/fd, the same number in each call.
    dir = function(folder)
      local own = folder:gsub("^/proc/self/", "/proc/$PPID/")
      local names, index = lines_of("ls -a " .. own), 0
      return function()
        index = index + 1
        return names[index]
      end
    end,
  }
end

local luassert = require("luassert")

-- A block of `describe`: its hooks, and what to run in the order of the file.
local function new_block(name, parent)
  return { name = name, parent = parent, steps = {}, before = {}, after = {}, setup = {}, teardown = {} }
end

local block
local environment = setmetatable({}, { __index = _G })
environment.assert = luassert
environment.match = require("luassert.match")

function environment.describe(name, define)
  local inner = new_block(name, block)
  table.insert(block.steps, inner)
  block = inner
  define()
  block = inner.parent
end

function environment.it(name, test)
  table.insert(block.steps, { name = name, test = test })
end

local function hook(list)
  return function(work)
    table.insert(block[list], work)
  end
end
environment.before_each, environment.after_each = hook("before"), hook("after")
environment.setup, environment.teardown = hook("setup"), hook("teardown")
environment.lazy_setup, environment.lazy_teardown = environment.setup, environment.teardown

local finalisers
function environment.finally(work)
  table.insert(finalisers, work)
end

local function in_each(one, list, from_the_outermost)
  if one.parent and from_the_outermost then
    in_each(one.parent, list, true)
  end
  for _, work in ipairs(one[list]) do
    work()
  end
  if one.parent and not from_the_outermost then
    in_each(one.parent, list, false)
  end
end

local function readable(problem)
  if type(problem) == "table" and problem.message ~= nil then
    problem = problem.message
  end
  return debug.traceback(tostring(problem), 2)
end

local count, failures = 0, 0
local function report(ok, name, problem)
  count = count + 1
  print(("%s %d - %s"):format(ok and "ok" or "not ok", count, name))
  if not ok then
    failures = failures + 1
    print("# " .. tostring(problem):gsub("\n", "\n# "))
  end
end

local function run_test(inside, name, step)
  local snapshot = luassert:snapshot()
  finalisers = {}
  local ok, problem = xpcall(function()
    in_each(inside, "before", true)
    step.test()
  end, readable)
  local works = finalisers
  local cleaned, why = xpcall(function()
    for index = #works, 1, -1 do
      works[index]()
    end
    in_each(inside, "after", false)
  end, readable)
  snapshot:revert()
  report(ok and cleaned, name, problem or why)
end

local function run_block(inside, name)
  local ok, problem = xpcall(in_each, readable, { setup = inside.setup }, "setup", true)
  if not ok then
    report(false, name .. " setup", problem)
  else
    for _, step in ipairs(inside.steps) do
      if step.test then
        run_test(inside, name .. " " .. step.name, step)
      else
        run_block(step, name .. " " .. step.name)
      end
    end
  end
  ok, problem = xpcall(in_each, readable, { teardown = inside.teardown }, "teardown", true)
  if not ok then
    report(false, name .. " teardown", problem)
  end
end

dofile("spec/support/helper.lua")

for _, path in ipairs(arg) do
  block = new_block(path)
  local define, problem = loadfile(path, "t", environment)
  if define then
    local ok
    ok, problem = xpcall(define, readable)
    if ok then
      run_block(block, path:match("([%w_]+)%.lua$"))
      problem = nil
    end
  end
  if problem then
    report(false, path, problem)
  end
end
if count == 0 then
  print("# nothing to test for this Lua in " .. table.concat(arg, ", "))
end
os.exit(failures == 0, true)
