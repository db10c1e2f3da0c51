-- What a route costs beside a rendezvous in plain Lua over the same nodes: FNV-1a of the name, and one
-- mix of 32 bits for each node.
--
--   LUA_CPATH=build/luajit/?.so luajit benches/routing.lua [seconds per measurement, 0.2]
--
-- One line a row: nanoseconds of the module, of plain Lua, and the ratio. With BENCH_JSON set, one
-- object a line. A thousand users in turn, so that no answer can be kept for the next call.

local nb = require("nauthilus_backend")

local SECONDS = tonumber(arg[1]) or 0.2
local JSON = os.getenv("BENCH_JSON")
local USERS = 1000

local compare = dofile("benches/compare.lua")(SECONDS)

local byte = string.byte

-- `mix(hash, node)` is 32 bits of both. LuaJIT has `bit` and doubles, the others have integers.
local fnv, mix
if jit then
  local bit = require("bit")
  local bxor, band, lshift, rshift, tobit = bit.bxor, bit.band, bit.lshift, bit.rshift, bit.tobit
  function fnv(name)
    local hash = 0x811c9dc5
    for index = 1, #name do
      hash = bxor(hash, byte(name, index))
      -- Times 16777619, without leaving what a double can hold.
      hash = tobit(hash + lshift(hash, 1) + lshift(hash, 4) + lshift(hash, 7) + lshift(hash, 8) + lshift(hash, 24))
    end
    return hash
  end
  function mix(hash, node)
    local x = bxor(hash, node)
    x = bxor(x, rshift(x, 16))
    x = tobit(band(x, 0xffff) * 0x45d9f3b + lshift(tobit(rshift(x, 16) * 0x45d9f3b), 16))
    return bxor(x, rshift(x, 16))
  end
else
  fnv, mix = assert(load([[
    local byte = string.byte
    return function(name)
      local hash = 0x811c9dc5
      for index = 1, #name do
        hash = ((hash ~ byte(name, index)) * 16777619) & 0xffffffff
      end
      return hash
    end, function(hash, node)
      local x = hash ~ node
      x = ((x ~ (x >> 16)) * 0x45d9f3b) & 0xffffffff
      return x ~ (x >> 16)
    end
  ]]))()
end

local users = {}
for index = 1, USERS do
  users[index] = string.format("user%04d@example.org", index)
end

local turn = 0

local function next_user()
  turn = turn % USERS + 1
  return users[turn]
end

local function plain(nodes)
  local hashes = {}
  for index, node in ipairs(nodes) do
    hashes[index] = fnv(node.node)
  end
  return function()
    local hash = fnv(next_user())
    local best, highest = 1, mix(hash, hashes[1])
    for index = 2, #hashes do
      local score = mix(hash, hashes[index])
      if score > highest then
        best, highest = index, score
      end
    end
    return nodes[best]
  end
end

local function targets(count, weight_of)
  local list = {}
  for index = 1, count do
    list[index] = {
      protocol = "imap", host = "127.0.0.1", port = 10000 + index, node = "node" .. index,
      weight = weight_of and weight_of(index),
    }
  end
  return list
end

local filter = { protocol = "imap" }

local ROWS = {
  { "route(user), 10 nodes", 10 },
  { "route(user), 100 nodes", 100 },
  { "route(user, filter), 10 nodes", 10, filter },
  { "route(user), 10 nodes of 10 weights", 10, nil, function(index) return index * 10 end },
  { "route(user), 100 nodes of 10 weights", 100, nil, function(index) return index % 10 * 10 + 10 end },
}

for _, row in ipairs(ROWS) do
  local what, count, wanted, weight_of = row[1], row[2], row[3], row[4]
  local list = targets(count, weight_of)
  nb.configure({ log = "none", connect_interval = "24h", backend_servers = list })
  nb.stop()
  assert(nb.route("alice", wanted))
  local route = nb.route
  local function ours()
    return (route(next_user(), wanted))
  end
  local ns, baseline = compare(ours, plain(list))
  if JSON then
    print(string.format('{"what": "%s", "ours": %.2f, "baseline": %.2f}', what, ns, baseline))
  else
    print(string.format("%-40s%8.0f ns%8.0f ns%6.2fx", what, ns, baseline, ns / baseline))
  end
end
