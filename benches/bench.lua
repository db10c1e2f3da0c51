-- Measures what calls cost, and what plain Lua needs to do the same with its own tables:
--
--   LUA_CPATH=build/luajit/?.so luajit benches/bench.lua [seconds per measurement, 0.2]
--
-- CPU time, best of five, measured in turn so that a slow moment of the machine affects both. For
-- each row and number of servers: nanoseconds per operation, and the ratio to the baseline.
--
-- With BENCH_JSON set it prints one object per line for the rows with BENCH_SERVERS servers, and no table.
-- With BENCH_PROFILE set to a number it runs the request sequence that many times and nothing else.

local nb = require("nauthilus_backend")

local SECONDS = tonumber(arg[1]) or 0.2
local JSON = os.getenv("BENCH_JSON")
local COUNTS = JSON and { tonumber(os.getenv("BENCH_SERVERS") or 10) } or { 3, 10, 100 }

local compare = dofile("benches/compare.lua")(SECONDS)

-- The same servers for both sides: every second one speaks IMAP. They are never probed, so all
-- stay in the list.
local function servers(count)
  local list = {}
  for index = 1, count do
    list[index] = {
      ip = "127.0.0.1", host = "127.0.0.1", port = 10000 + index, haproxy_v2 = false, tls = false,
      protocol = index % 2 == 0 and "pop3" or "imap",
    }
  end
  return list
end

local function configure(list)
  local targets = {}
  for index, server in ipairs(list) do
    targets[index] = { protocol = server.protocol, host = server.host, port = server.port }
  end
  nb.configure({ log = "none", connect_interval = "24h", backend_servers = targets })
  nb.stop()
  assert(#nb.get_backend_servers() == #list)
end

-- A use of each result, so that the compiler cannot remove the calls that are measured.
local sink = 0 -- luacheck: ignore

-- The work of each row: a function that makes it from the function that lists the servers.
local function reading(list_servers)
  return function()
    for _, server in ipairs(list_servers()) do
      if server.protocol == "imap" and server.ip and not server.haproxy_v2 then
        sink = sink + server.port
      end
    end
  end
end

-- Reads the fields of servers that the caller already has, so without the cost of the list.
local function fields(list_servers)
  local held = list_servers()
  return function()
    for index = 1, #held do
      local server = held[index]
      if server.protocol == "imap" and server.ip then
        sink = sink + server.port
      end
    end
  end
end

local turn = 0

local function choose(list_servers)
  local candidates = {}
  for _, server in ipairs(list_servers()) do
    if server.protocol == "imap" then
      candidates[#candidates + 1] = server
    end
  end
  turn = turn + 1
  return candidates[turn % #candidates + 1]
end

local function sequence()
  local server = choose(nb.get_backend_servers)
  local result = nauthilus_backend_result.new()
  result:attributes({ hostip = server.ip, account = "user@example.org" })
  nb.apply_backend_result(result)
  nb.select_backend_server(server.ip, server.port)
  nb.remove_from_backend_result({ "Proxy-Host" })
  local headers = nb.context():headers()
  sink = sink + #headers["Auth-Port"]
end

-- The decisions of one request in plain tables: without the checks, copies and rules of the module.
local function plain_sequence(list_servers)
  return function()
    local server = choose(list_servers)
    local attributes = { hostip = server.ip, account = "user@example.org" }
    local headers = { ["Auth-Server"] = server.ip, ["Auth-Port"] = tostring(server.port) }
    for name, value in pairs(attributes) do
      headers["X-Nauthilus-" .. name:gsub("^%l", string.upper)] = value
    end
    headers["X-Nauthilus-Proxy-Host"] = nil
    sink = sink + #headers["Auth-Port"]
  end
end

local ROWS = {
  {
    "get_backend_servers()",
    function() return nb.get_backend_servers, function(copy) return copy end end,
  },
  {
    "  and three fields of each",
    function() return reading(nb.get_backend_servers), reading end,
  },
  {
    "ip, port and protocol of each",
    function() return fields(nb.get_backend_servers), fields end,
  },
  {
    "list, filter, pick, apply, select, remove, headers",
    function() return sequence, plain_sequence end,
  },
}

if JSON then
  -- `make bench` has no row for the list and its fields together.
  table.remove(ROWS, 2)
end

local repetitions = tonumber(os.getenv("BENCH_PROFILE"))
if repetitions then
  configure(servers(10))
  for _ = 1, repetitions do
    sequence()
  end
  return
end

local report = JSON and function() end or print

local heads = {}
for index, count in ipairs(COUNTS) do
  heads[index] = string.format("%18s", count .. " servers")
end
report(string.format("%s\n%-44s%s", jit and jit.version or _VERSION, "", table.concat(heads)))
for _, row in ipairs(ROWS) do
  local cells = {}
  for index, count in ipairs(COUNTS) do
    local list = servers(count)
    configure(list)
    local function copy()
      local mine = {}
      for at = 1, #list do
        mine[at] = list[at]
      end
      return mine
    end
    local ours, theirs = row[2]()
    local ns, baseline = compare(ours, theirs(copy))
    cells[index] = string.format("%10.0f ns %4.1fx", ns, ns / baseline)
    if JSON then
      print(string.format('{"what": "%s", "ours": %.2f, "baseline": %.2f}', row[1], ns, baseline))
    end
  end
  report(string.format("%-44s%s", row[1], table.concat(cells)))
end

if JSON then
  return
end
local reason = nb.check_backend_connection("127.0.0.1", 1, false, false)
assert(reason, "port 1 answers?")
local checks = compare(function()
  nb.check_backend_connection("127.0.0.1", 1, false, false)
end, function() end)
print(string.format("%-44s%10.0f ns of the caller's CPU\n", "check_backend_connection, refused", checks))
