-- /etc/rspamd/rspamd.local.lua: while no LMTP server is alive, rspamd tells the mail transfer agent to try again later.
-- Each message gets a symbol that lists the servers that are alive. The module: `make LUA=luajit install-module`

local nauthilus_backend = require("nauthilus_backend")

-- Runs in rspamd's main process. Its workers are forked from it and share the verdicts; one of them probes.
nauthilus_backend.configure("/etc/nauthilus_backend.yml")
rspamd_config:add_on_load(function()
  nauthilus_backend.start()
end)

rspamd_config:register_symbol({
  name = "MAIL_SERVERS",
  score = 0,
  callback = function(task)
    local alive = {}
    for _, server in ipairs(nauthilus_backend.get_backend_servers()) do
      if server.protocol == "lmtp" then
        alive[#alive + 1] = server.ip
      end
    end
    -- Mail of users who have logged in may be for other sites. What of it is for yours, waits in the queue.
    if #alive == 0 and not task:get_user() then
      task:set_pre_result("soft reject", "No mail server is available")
    end
    return true, 1.0, alive
  end,
})
