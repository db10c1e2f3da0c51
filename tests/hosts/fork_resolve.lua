-- Forks while names are looked up: no child finds a lock of the C library's resolver held by a
-- thread that it does not have.

local tap = require("tap")
local nb = require("nauthilus_backend")

local forks = tonumber(os.getenv("FORKS")) or 100
local port = host.listen(4096)

-- An answer is cached for a while, so each look-up is of a new name; all these names mean this machine.
local asked = 0
local function fresh_name()
  asked = asked + 1
  local bits = asked
  return (("localhost"):gsub("%a", function(letter)
    local upper = bits % 2 == 1
    bits = math.floor(bits / 2)
    return upper and letter:upper() or letter
  end))
end

local failed, took = {}, {}
local function reap(children, at_most)
  while #children > at_most do
    local how, code = host.wait(table.remove(children, 1), 60)
    if how ~= "exit" or code ~= 0 then
      failed[#failed + 1] = how .. " " .. code
    end
  end
end

local children = {}
for turn = 1, forks do
  local check = nb.start_check(fresh_name(), port, false, false, { coalesce = false })
  local pause = host.now() + turn % 20 / 50000
  repeat until host.now() >= pause
  local started = host.now()
  local pid = host.fork()
  if pid == 0 then
    local reason = nb.check_backend_connection("localhost", port, false, false, { connect_timeout = "5s" })
    host.exit_now(reason == nil and 0 or 1)
  end
  took[turn] = host.now() - started
  children[#children + 1] = pid
  check:cancel()
  reap(children, 4)
end
reap(children, 0)
table.sort(took)
local median = took[math.floor(#took / 2) + 1]
io.write(string.format("# a fork took %.2f ms, at most %.2f ms\n", median * 1000, took[#took] * 1000))
-- A look-up that takes longer than a fork waits: the child then inherits the lock all the same.
tap.check("children look names up", #failed <= forks / 10,
  #failed .. " of " .. forks .. " failed: " .. (failed[1] or ""))
