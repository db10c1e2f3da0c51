-- Ends the sessions of users who were moved, on the node that they left: while a user has a session on two nodes,
-- the mailbox's indexes break. With `move_delay` in the configuration no login is let in before that is done.
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
--   # /etc/nauthilus_backend.yml: at least twice the five seconds below
--   cluster: { redis: …, move_delay: 10s }
--
-- Each mail server needs examples/dovecot/doveadm-http.conf. Debian's package lua-cjson is needed; OpenResty has it.
-- events() tells of the moves that logins and operators have made on this machine, so run this on each machine that
-- routes. Events name the node that was left, not the user: of the users with sessions there, those are kicked whose
-- binding says that they were moved away.

local backend = require("nauthilus_backend")
local json = require("cjson.safe")

local kick = {}

-- Addresses by the name of the node, and the key of doveadm's HTTP API.
local nodes, key

-- In seconds: how long one node may take to answer, and how often at most its sessions are looked through.
local TIMEOUT, EVERY = 3, 5

-- How often a node is looked through after a move: a login that had its answer before the move becomes a session
-- that doveadm lists a moment later.
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

-- doveadm takes a mask: a name with its wildcards, or one that reads as an address, would kick others.
local function is_mask(user)
  return user:find("[*?:]") or user:find("^[%d./]+$")
end

-- Kicks those who have sessions on the node and were moved away from it. Returns nil and what went wrong where that
-- is not known of all of them.
local function sweep(node, address)
  -- A row for each session: Dovecot 2.3 puts the rows that have one user's sessions together in the wrong places.
  local rows, problem = doveadm(address, "who", { separateConnections = true })
  if not rows then
    return nil, problem
  end
  local known = {}
  for _, row in ipairs(rows) do
    local user = row.username
    if type(user) == "string" and not known[user] and not is_mask(user) then
      known[user] = true
      local explained, unknown = backend.explain_route(user)
      if not explained then
        problem = unknown
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
  -- Shared, so that a worker that takes over goes on where the last one was.
  local told = ngx.shared.backend_kicks
  note_moves(told)
  for node, address in pairs(nodes) do
    local sweeps = told:get("left " .. node)
    if sweeps and told:add("swept " .. node, true, EVERY) then
      -- Counted before the sweep: who is moved meanwhile is found by later ones.
      if sweeps > 1 then
        told:set("left " .. node, sweeps - 1)
      else
        told:delete("left " .. node)
      end
      local done, problem = sweep(node, address)
      if not done then
        -- A node that is down has no sessions: its mark ends by itself.
        ngx.log(ngx.ERR, "cannot end sessions on ", node, ": ", problem)
      end
    end
  end
end

-- In init_by_lua: nginx's master may read the key, its workers need not.
function kick.configure(options)
  nodes = options.nodes
  local file = assert(io.open(options.key_file))
  key = assert(file:read("*l"), options.key_file .. " is empty")
  file:close()
end

-- In init_worker_by_lua. One worker kicks; when it dies, nginx starts another of the same number.
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
    assert(ngx.timer.at(1, again))
  end
  assert(ngx.timer.at(0, again))
end

return kick
