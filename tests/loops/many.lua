-- many.lua LOOP PORT COUNT FILE [MODULE'S FOLDER]: that many checks at once in this event loop. A timer of the same
-- loop writes the file on its fifth tick; the server answers nobody before. So the checks complete only if all of
-- them are under way together and none of them holds the loop. Prints the number of servers found to work.

local vim = rawget(_G, "vim")
local given = rawget(_G, "arg_of_test") or arg
local kind, port, count, file = given[1], tonumber(given[2]), tonumber(given[3]), given[4]
if given[5] then
  package.cpath = given[5] .. "/?.so;" .. package.cpath
end

local function server()
  return {
    protocol = "imap", host = "127.0.0.1", port = port, deep_check = true, coalesce = false,
    connect_timeout = "60s", deep_timeout = "60s",
  }
end

local ticks, completed, good, reasons = 0, 0, 0, {}

local function tick()
  ticks = ticks + 1
  if ticks == 5 then
    assert(io.open(file, "w")):close()
  end
  return completed < count
end

local function complete(reason)
  completed = completed + 1
  if reason then
    reasons[reason] = true
  else
    good = good + 1
  end
end

local run = {}

function run.luv(check)
  local uv = vim and (vim.uv or vim.loop) or require("luv")
  local timer = uv.new_timer()
  timer:start(10, 10, function()
    if not tick() then
      timer:close()
    end
  end)
  for _ = 1, count do
    check(server(), complete)
  end
  if vim then
    vim.wait(60000, function()
      return completed == count
    end, 10)
  else
    uv.run()
  end
end

function run.cqueues(check)
  local cqueues = require("cqueues")
  local loop = cqueues.new()
  loop:wrap(function()
    repeat
      cqueues.sleep(0.01)
    until not tick()
  end)
  for _ = 1, count do
    loop:wrap(function()
      complete(check(server()))
    end)
  end
  assert(loop:loop())
end

function run.copas(check)
  local copas = require("copas")
  for _ = 1, count do
    copas.addthread(function()
      complete(check(server()))
    end)
  end
  -- The copas of Debian has no `sleep`.
  while tick() do
    copas.step(0.01)
  end
end

run[kind](dofile("examples/loops/" .. kind .. ".lua"))
for reason in next, reasons do
  io.stderr:write(reason, "\n")
end
print(good)
