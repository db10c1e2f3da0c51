-- Sends each event (verdicts, nodes, settings of operators and so on) to a webhook, and writes it to nginx's log.
--
--   http {
--     lua_package_path "/etc/nginx/?.lua;;";
--     lua_shared_dict backend_events 64k;
--     init_worker_by_lua_block {
--       require("nauthilus_backend").start()
--       require("events").tell("127.0.0.1", 8080, "/hook")
--     }
--
-- The script calls events() from a timer. The module has no callback for events: it would come from the engine
-- thread, in which no Lua state of nginx may be used.

local backend = require("nauthilus_backend")

local events = {}

-- One event as one line, which the webhook gets as the body of a POST.
local function line_of(event)
  local change = (event.from or "") .. " -> " .. (event.to or "")
  local subject = event.target or (event.node and "node:" .. event.node) or ""
  return table.concat({ event.type, subject, change, event.reason or "", event.by or "" }, "\t")
end

local function post(host, port, path, body)
  local socket = ngx.socket.tcp()
  socket:settimeouts(2000, 2000, 2000)
  local ok, problem = socket:connect(host, port)
  if not ok then
    return nil, problem
  end
  socket:send({
    "POST ", path, " HTTP/1.0\r\nHost: ", host, "\r\nContent-Type: text/plain; charset=utf-8\r\n",
    "Content-Length: ", #body, "\r\n\r\n", body,
  })
  local status
  status, problem = socket:receive("*l")
  socket:close()
  if status and status:find("^HTTP/1%.%d 2") then
    return true
  end
  return nil, problem or status
end

-- Sends the new events. If one could not be sent, the next call tries it again. One that is being sent during a reload
-- may be sent twice.
local function tell_new(host, port, path)
  -- In shared memory, so that another worker that takes over continues with the right event.
  local told = ngx.shared.backend_events
  local list, lost = backend.events(told:get("last") or 0)
  if lost then
    -- There were more than 1,024 events since the last call, or nginx was restarted.
    ngx.log(ngx.WARN, "events were lost")
  end
  for _, event in ipairs(list) do
    local line = line_of(event)
    local ok, problem = post(host, port, path, line)
    if not ok then
      ngx.log(ngx.ERR, "cannot tell of an event: ", problem)
      return
    end
    told:set("last", event.seq)
    ngx.log(ngx.NOTICE, "told: ", line)
  end
end

-- Call this in init_worker_by_lua. Only one worker sends events; when it dies, nginx starts another worker with the
-- same number.
function events.tell(host, port, path)
  if ngx.worker.id() ~= 0 then
    return
  end
  local function again(premature)
    if premature then
      return
    end
    local ok, problem = pcall(tell_new, host, port, path)
    if not ok then
      ngx.log(ngx.ERR, problem)
    end
    -- A reload that began meanwhile allows no new timer. The new worker with this number goes on.
    if ngx.worker.exiting() then
      return
    end
    -- Not `ngx.timer.every`: if a call took longer than the interval, the next one would run at the same time.
    assert(ngx.timer.at(1, again))
  end
  assert(ngx.timer.at(0, again))
end

return events
