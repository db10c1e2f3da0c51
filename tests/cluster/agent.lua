-- An engine with a table of its own that a test commands: agent.lua FOLDER FILE
--
-- FILE returns the configuration. Each line of standard input is a Lua expression; its values are printed in one
-- line, separated by tabs. The first line that is printed says whether all targets had a verdict.

package.cpath = arg[1] .. "/?.so"
local nb = require("nauthilus_backend")
local names = setmetatable({ nb = nb }, { __index = _G })

-- The node, how or the reason, the node before, and by whom.
function names.route(user, filter)
  local server, how, detail = nb.route(user, filter)
  return server and server.node or "nil", how, detail and detail.from or "", detail and detail.by or ""
end

function names.warnings()
  return table.concat(nb.status().warnings, "; ")
end

-- Begins `count` logins at once, and again until `seconds` are over; 0 or none: once. Returns how often each `how`, or
-- reason, was the answer.
function names.burst(user, count, seconds)
  local counts, ends = {}, os.time() + (seconds or 0)
  repeat
    local routes = {}
    for index = 1, count do
      routes[index] = nb.start_route(user .. index)
    end
    for _, route in ipairs(routes) do
      route:wait(60)
      local _, how = route:result()
      how = how:gsub(" ", "_")
      counts[how] = (counts[how] or 0) + 1
    end
  until os.time() >= ends
  local words = {}
  for how, times in pairs(counts) do
    words[#words + 1] = how .. "=" .. times
  end
  return table.concat(words, " ")
end

-- How often Redis began to fail.
function names.failures()
  local count = 0
  for _, event in ipairs(nb.events()) do
    if event.type == "cluster" and event.to == "down" then
      count = count + 1
    end
  end
  return count
end

-- The last event about another machine.
function names.difference()
  local found = "none"
  for _, event in ipairs(nb.events()) do
    if event.type == "cluster" and (event.target or ""):find("^machine:") then
      found = event.to .. " " .. event.reason
    end
  end
  return found
end

-- Whether a node is usable, as this engine sees it.
function names.usable(name)
  for _, node in ipairs(nb.nodes()) do
    if node.node == name then
      return node.usable
    end
  end
end

-- Whether a server is listed.
function names.lists(node, protocol)
  for _, server in ipairs(nb.get_backend_servers()) do
    if server.node == node and server.protocol == protocol then
      return true
    end
  end
  return false
end

-- The value of a metric's first series whose name and labels begin so.
function names.metric(prefix)
  for line in nb.metrics():gmatch("[^\n]+") do
    if line:sub(1, #prefix) == prefix then
      return line
    end
  end
end

local function print_values(...)
  local texts = {}
  for index = 1, select("#", ...) do
    texts[index] = tostring((select(index, ...)))
  end
  io.write(table.concat(texts, "\t"), "\n")
  io.flush()
end

nb.configure(dofile(arg[2]))
print_values(nb.wait_ready(60))
for line in io.lines() do
  print_values(select(2, pcall(assert(load("return " .. line, "=command", "t", names)))))
end
