-- Tells a webhook of each event, and nginx's log: verdicts, nodes, what operators set, and so on.
--
--   http {
--     lua_package_path "/etc/nginx/?.lua;;";
--     lua_shared_dict backend_events 64k;
--     init_worker_by_lua_block {
--       require("nauthilus_backend").start()
--       require("events").tell("127.0.0.1", 8080, "/hook")
--     }
--
-- events() is asked, it does not call: a callback would come from a thread that is not nginx's.

local backend = require("nauthilus_backend")

local events = {}

-- One event as a line: what the webhook gets as the body of a POST.
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

-- Tells what is new. An event that could not be told is tried again with the next call.
local function tell_new(host, port, path)
  -- Shared, so that a worker that takes over goes on where the last one was.
  local told = ngx.shared.backend_events
  local list, lost = backend.events(told:get("last") or 0)
  if lost then
    -- More came than the ring keeps, or nginx was started anew.
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

-- In init_worker_by_lua. One worker tells; when it dies, nginx starts another of the same number.
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
    -- Not `every`: a call that takes longer than the interval would meet the next one.
    assert(ngx.timer.at(1, again))
  end
  assert(ngx.timer.at(0, again))
end

return events
