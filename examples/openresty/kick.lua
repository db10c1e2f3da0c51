-- When a user was moved to another node, ends the user's sessions on the old node: sessions on two nodes at the same
-- time would damage the mailbox's indexes. During `move_delay` no login of the user is let in, so that this is done
-- before the next session begins.
--
--   http {
--     lua_package_path "/etc/nginx/?.lua;;";
--     lua_shared_dict backend_kicks 64k;
--     init_by_lua_block {
--       require("nauthilus_backend").configure("/etc/nauthilus_backend.yml")
--       require("kick").configure({
--         key_file = "/etc/doveadm-api-key",
--         nodes = { mail1 = "192.0.2.11:8080", mail2 = "192.0.2.12:8080" },
--       })
--     }
--     init_worker_by_lua_block {
--       require("nauthilus_backend").start()
--       require("kick").start()
--     }
--
--   # /etc/nauthilus_backend.yml; move_delay must be at least twice the five seconds that a node may take (see below)
--   cluster: { redis: …, move_delay: 10s }
--
-- Each mail server needs examples/dovecot/doveadm-http.conf. On Debian install the package lua-cjson; OpenResty has it.
-- events() returns the moves that logins and operators have made on this machine, so run this on each machine that
-- routes. An event names the node that a user has left, but not the user. The script therefore reads which users have
-- sessions on that node, and ends the sessions of those whose binding says that they were moved away.

local backend = require("nauthilus_backend")
local json = require("cjson.safe")

local kick = {}

-- Addresses by the name of the node, and the key of doveadm's HTTP API.
local nodes, key

-- In seconds: how long one node may take to answer, and the shortest time between two sweeps of a node's sessions.
local TIMEOUT, EVERY = 3, 5

-- How many sweeps of a node follow a move. One is not enough: a login that was answered just before the move becomes a
-- session that doveadm lists only a moment later.
local SWEEPS = 2

-- One command of doveadm's HTTP API. Returns its rows, or nil and what went wrong.
local function doveadm(address, name, parameters)
  local host, port = address:match("^(.+):(%d+)$")
  local socket = ngx.socket.tcp()
  socket:settimeouts(TIMEOUT * 1000, TIMEOUT * 1000, TIMEOUT * 1000)
  local ok, problem = socket:connect(host, tonumber(port))
  if not ok then
    return nil, problem
  end
  local body = json.encode({ { name, parameters, "kick" } })
  socket:send({
    "POST /doveadm/v1 HTTP/1.0\r\nHost: ", host, "\r\nAuthorization: X-Dovecot-API ", ngx.encode_base64(key),
    "\r\nContent-Type: application/json\r\nContent-Length: ", #body, "\r\n\r\n", body,
  })
  local answer
  answer, problem = socket:receive("*a")
  socket:close()
  local head, text = (answer or ""):match("^(.-)\r\n\r\n(.*)$")
  if not head or not head:find("^HTTP/1%.%d 200") then
    return nil, problem or "doveadm answered " .. (answer or ""):match("^[^\r\n]*")
  end
  local decoded = json.decode(text)
  local first = type(decoded) == "table" and decoded[1]
  if type(first) ~= "table" or first[1] ~= "doveadmResponse" then
    return nil, "doveadm: " .. text
  end
  return first[2]
end

-- `doveadm kick` takes a mask: a user's name that contains wildcards, or looks like an address, would end the sessions
-- of other users as well.
local function is_mask(user)
  return user:find("[*?:]") or user:find("^[%d./]+$")
end

-- The pools of all nodes. In a login's own pools a user who is bound in another one would count as moved; in all pools
-- only those who have left the node do.
local function all_pools()
  local pools, known = {}, {}
  for _, node in ipairs(backend.nodes() or {}) do
    if not known[node.pool] then
      known[node.pool] = true
      pools[#pools + 1] = node.pool
    end
  end
  return pools
end

-- The users of whom the log says that their sessions must be ended by hand.
local told_of = {}

-- Ends the sessions of users who have sessions on the node and were moved away from it. Returns nil and the reason if
-- it could not find that out for all of them.
local function sweep(node, address)
  -- Asks for one row per session. In the form with one row per user, Dovecot 2.3 returns fields of the wrong user.
  local rows, problem = doveadm(address, "who", { separateConnections = true })
  if not rows then
    return nil, problem
  end
  local known, pools = {}, all_pools()
  for _, row in ipairs(rows) do
    local user = row.username
    if type(user) == "string" and not known[user] then
      known[user] = true
      local explained, unknown = backend.explain_route(user, { pool = pools })
      if not explained then
        problem = unknown
      elseif explained.from == node and explained.node ~= node and is_mask(user) then
        if not told_of[user] then
          told_of[user] = true
          ngx.log(ngx.ERR, "end the sessions of ", user, " on ", node, " by hand: for doveadm this name is a mask")
        end
      elseif explained.from == node and explained.node ~= node then
        local done, refused = doveadm(address, "kick", { mask = { user } })
        if done then
          ngx.log(ngx.NOTICE, "kicked a user on ", node, " who was moved to ", explained.node or "no node")
        else
          problem = refused
        end
      end
    end
  end
  return not problem, problem
end

-- The nodes that users have left since the last call.
local function note_moves(told)
  local list, lost = backend.events(told:get("last") or 0)
  for _, event in ipairs(list) do
    if event.type == "move" and event.from and nodes[event.from] then
      told:set("left " .. event.from, SWEEPS)
    end
    told:set("last", event.seq)
  end
  if lost then
    for node in pairs(nodes) do
      told:set("left " .. node, SWEEPS)
    end
  end
end

local function run()
  -- In shared memory, so that another worker that takes over continues with the right event.
  local told = ngx.shared.backend_kicks
  note_moves(told)
  for node, address in pairs(nodes) do
    local sweeps = told:get("left " .. node)
    if sweeps and told:add("swept " .. node, true, EVERY) then
      -- Counted before the sweep: users who are moved during it are found by later sweeps.
      if sweeps > 1 then
        told:set("left " .. node, sweeps - 1)
      else
        told:delete("left " .. node)
      end
      local done, problem = sweep(node, address)
      if not done then
        -- A node that does not run has no sessions. The mark that it must be swept expires.
        ngx.log(ngx.ERR, "cannot end sessions on ", node, ": ", problem)
      end
    end
  end
end

-- Call this in init_by_lua, as root: then the workers' user needs no right to read the key.
function kick.configure(options)
  nodes = options.nodes
  local file = assert(io.open(options.key_file))
  key = assert(file:read("*l"), options.key_file .. " is empty")
  file:close()
end

-- Call this in init_worker_by_lua. Only one worker ends sessions; when it dies, nginx starts another worker with the
-- same number.
function kick.start()
  if ngx.worker.id() ~= 0 then
    return
  end
  local function again(premature)
    if premature then
      return
    end
    local ok, problem = pcall(run)
    if not ok then
      ngx.log(ngx.ERR, problem)
    end
    -- A reload that began meanwhile allows no new timer. The new worker with this number goes on.
    if ngx.worker.exiting() then
      return
    end
    assert(ngx.timer.at(1, again))
  end
  assert(ngx.timer.at(0, again))
end

return kick
