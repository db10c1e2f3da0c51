--- What specs do with the module again and again: quick configurations, waiting for verdicts.

local socket = require("socket")

local engine = {}

engine.now = socket.gettime

--- `base`, changed by `overrides`, which may be nil.
function engine.changed(base, overrides)
  for key, value in pairs(overrides or {}) do
    base[key] = value
  end
  return base
end

--- A configuration that probes every 50 ms and logs nothing, changed by `overrides`.
function engine.config(servers, overrides)
  return engine.changed({
    connect_interval = "50ms",
    fast_interval = "50ms",
    connect_timeout = "500ms",
    tls_timeout = "500ms",
    log = "none",
    backend_servers = servers,
  }, overrides)
end

--- Removes what operators have set for nodes and targets: it outlives a configuration, and a test that failed.
function engine.clear_operators(nb)
  for _, node in ipairs(nb.nodes() or {}) do
    nb.set_target_state("node:" .. node.node, "auto")
  end
  for _, target in ipairs(nb.status().targets or {}) do
    nb.set_target_state(target.key, "auto")
  end
end

--- An IMAP target on loopback, changed by `overrides`.
function engine.imap(port, overrides)
  return engine.changed({ protocol = "imap", host = "127.0.0.1", port = port }, overrides)
end

--- A configuration of nodes whose names are the letters of `names`, each with the port of its peer, and of
-- the store that `cluster` describes. Routing follows verdicts at once.
function engine.nodes(names, peers_by_name, cluster, overrides)
  local servers = {}
  for name in names:gmatch("%a") do
    servers[#servers + 1] = engine.imap(peers_by_name[name].port, { node = name })
  end
  local config = { node_down_after = 0, node_up_after = 0, cluster = cluster }
  return engine.config(servers, engine.changed(config, overrides))
end

--- Calls `condition` until it gives something true, and returns that; raises after `timeout` seconds (30),
-- saying that `what` never happened.
function engine.eventually(what, condition, timeout)
  local deadline = socket.gettime() + (timeout or 30)
  while true do
    local value = condition()
    if value then
      return value
    end
    if socket.gettime() > deadline then
      error("never happened: " .. what, 2)
    end
    -- 2 ms between two calls: this only saves CPU. What ends the wait is the condition.
    socket.select(nil, nil, 0.002)
  end
end

--- Calls `attempt`, which takes less than `limit` seconds in one of up to five calls: a single one
-- may be interrupted for longer on a busy machine. Raises where none did. `attempt` may return how
-- long it took itself, where not all of it counts.
function engine.promptly(limit, attempt)
  local shortest = math.huge
  for _ = 1, 5 do
    local started = socket.gettime()
    local took = attempt() or socket.gettime() - started
    shortest = math.min(shortest, took)
    if took < limit then
      return
    end
  end
  error("took " .. shortest .. " s, at the least, rather than less than " .. limit .. " s", 2)
end

--- The entry of `status()` for the target on `port`.
function engine.target(nb, port)
  for _, target in ipairs(nb.status().targets) do
    if target.key:match(":" .. port .. "$") then
      return target
    end
  end
  error("no target on port " .. port, 2)
end

--- Waits until the target on `port` has this verdict.
function engine.await_verdict(nb, port, verdict, timeout)
  engine.eventually("port " .. port .. " is " .. verdict, function()
    return engine.target(nb, port).verdict == verdict
  end, timeout)
end

--- Waits until the target on `port` was probed `count` more times.
function engine.await_probes(nb, port, count)
  local before = engine.target(nb, port).probes
  engine.eventually(count .. " more probes of port " .. port, function()
    return engine.target(nb, port).probes >= before + count
  end)
end

--- The ports of the servers offered now, in their order.
function engine.ports(nb)
  local ports = {}
  for index, server in ipairs(nb.get_backend_servers()) do
    ports[index] = server.port
  end
  return ports
end

--- All the text in a value, however deep: to search it for what must not be in it.
function engine.all_text(value, seen)
  seen = seen or {}
  if type(value) ~= "table" then
    return tostring(value) .. "\n"
  elseif seen[value] then
    return ""
  end
  seen[value] = true
  local text = ""
  for key, item in pairs(value) do
    text = text .. engine.all_text(key, seen) .. engine.all_text(item, seen)
  end
  return text .. engine.all_text(getmetatable(value), seen)
end

return engine
