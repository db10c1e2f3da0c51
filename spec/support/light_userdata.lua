-- Gives a light userdata, such as `ngx.null`, in the place of everything that the module takes:
-- `problems(nb, class, light)` returns what was not as it should be. For any host.

-- Arguments that are right, for each function that takes some. What stands for a table of keys is one.
local ARGUMENTS = {
  apply_backend_result = { "result" },
  check_backend_connection = { "127.0.0.1", 1, false, false, { connect_timeout = 1 } },
  configure = { { backend_servers = {} } },
  events = { 0 },
  explain_route = { "user", { protocol = "imap" } },
  flush_node = { "one", { reason = "r" } },
  forget_user = { "user" },
  hold_user = { "user", true },
  is_health_check = { "user" },
  metrics = { "function" },
  move_user = { "user", "one", { reason = "r" } },
  remove_from_backend_result = { { "a" } },
  report_failure = { "127.0.0.1", 1, "reason" },
  route = { "user", { protocol = "imap" } },
  select_backend_server = { "127.0.0.1", 1 },
  set_node_weight = { "one", 1, { reason = "r" } },
  set_target_state = { "node:one", "auto", { reason = "r" } },
  start_check = { "127.0.0.1", 1, false, false, { connect_timeout = 1 } },
  start_route = { "user", { protocol = "imap" } },
  status_json = { "function" },
  status_page = { { title = "t" }, "function" },
  touch_users = { { "user" }, "one" },
  wait_ready = { 0 },
  with_context = { "context", "function" },
}

-- Functions that take none, and so ignore whatever is given.
local WITHOUT = {
  context = true, get_backend_servers = true, get_current_backend_result = true,
  get_removed_backend_attributes = true, get_selected_backend_server = true, new_context = true, nodes = true,
  start = true, status = true, stop = true,
}

local SERVICE_KEYS = {
  "backend_servers", "targets", "cert_warn", "cluster", "connect_interval", "connect_timeout", "deep_interval",
  "deep_timeout", "detail_separator", "drain_time", "expose_attributes", "failure_threshold", "fast_interval",
  "helo_name", "initial_state", "log", "master_separator", "max_concurrent_probes", "node_down_after", "node_up_after",
  "node_usable", "panic_threshold", "recovery_threshold", "state_file", "state_max_age", "tls_full_handshake_interval",
  "tls_timeout", "user_key",
}

local TARGET_KEYS = {
  "allow_plaintext_auth", "auth_mechanism", "connect_interval", "connect_timeout", "deep_check", "deep_interval",
  "deep_timeout", "expected_status", "failure_threshold", "fast_interval", "haproxy_v2", "helo_name", "host",
  "http_host", "http_method", "node", "pool", "port", "protocol", "recovery_threshold", "request_uri",
  "source_address", "test_mailbox", "test_password", "test_username", "tls", "tls_ca_file", "tls_cert_file",
  "tls_key_file", "tls_min_version", "tls_mode", "tls_server_name", "tls_skip_verify", "tls_timeout", "vital", "weight",
}

local CLUSTER_KEYS = {
  "key_file", "min_stay", "move_delay", "node_failover", "on_error", "password_file", "prefix", "redis", "retention",
  "sentinel_password_file", "timeout", "tls_ca_file", "tls_cert_file", "tls_key_file", "username", "verdicts",
}

local SETTERS = {
  "account_field", "attributes", "authenticated", "display_name_field", "group_dns", "groups", "totp_recovery_field",
  "totp_secret_field", "unique_user_id_field", "user_found", "webauthn_credentials",
}

local CONTEXT_METHODS = { "attributes", "each_header", "groups", "headers", "removed", "reset", "selected", "set_base" }
local CHECK_METHODS = { "cancel", "done", "fd", "result", "tls", "wait" }

local unpack = rawget(table, "unpack") or rawget(_G, "unpack")

return function(nb, class, light)
  local problems = {}
  local function problem(where, what)
    problems[#problems + 1] = where .. ": " .. tostring(what)
  end

  -- The call raises a text that says what was expected.
  local function refused(where, call, ...)
    local ok, why = pcall(call, ...)
    if ok then
      problem(where, "accepted")
    elseif type(why) ~= "string" then
      problem(where, "raised a " .. type(why))
    elseif why:find("internal error", 1, true)
      or not (why:find(" expected", 1, true) or why:find(" is no configuration value", 1, true)
        or why:find(" has no field", 1, true)) then
      problem(where, why)
    end
  end

  -- The call does what it does without that.
  local function ignored(where, call, ...)
    local ok, why = pcall(call, ...)
    if not ok then
      problem(where, why)
    end
  end

  local function right(argument)
    if argument == "result" then
      return class.new()
    elseif argument == "context" then
      return nb.new_context()
    elseif argument == "function" then
      return function() end
    end
    return argument
  end

  for name, value in pairs(nb) do
    local expected = ARGUMENTS[name]
    if type(value) ~= "function" then
      expected = nil
    elseif WITHOUT[name] then
      -- In a phase that has no request, what is refused is the phase.
      ignored(name, value, light, light)
    elseif not expected then
      problem(name, "not known to this test")
    end
    for position in ipairs(expected or {}) do
      local arguments = {}
      for index, argument in ipairs(expected) do
        arguments[index] = right(argument)
      end
      arguments[position] = light
      refused(name .. " " .. position, value, unpack(arguments, 1, #expected))
    end
  end

  -- Tables of keys: as a value, as a key, as an item.
  local function keys_refused(where, names, give)
    for _, name in ipairs(names) do
      refused(where .. "." .. name, give, name, light)
    end
    refused(where .. "[light]", give, light, 1)
    refused(where .. "[1]", give, 1, light)
  end
  local function service(key, value)
    local config = { log = "none", backend_servers = {} }
    config[key] = value
    if key == "targets" then
      config.backend_servers = nil
    end
    nb.configure(config)
  end
  keys_refused("configure", SERVICE_KEYS, service)
  keys_refused("backend_servers[1]", TARGET_KEYS, function(key, value)
    local target = { protocol = "imap", host = "127.0.0.1", port = 1 }
    target[key] = value
    service("backend_servers", { target })
  end)
  refused("backend_servers", service, "backend_servers", { light })
  refused("backend_servers[light]", service, "backend_servers", { [light] = {} })
  refused("expose_attributes", service, "expose_attributes", { light })
  local web = { protocol = "http", host = "127.0.0.1", expected_status = { light } }
  refused("expected_status", service, "backend_servers", { web })
  keys_refused("cluster", CLUSTER_KEYS, function(key, value)
    local cluster = { redis = "redis://127.0.0.1:1" }
    cluster[key] = value
    service("cluster", cluster)
  end)
  local some = { "host", "port", "protocol", "tls", "connect_timeout" }
  keys_refused("check_backend_connection", some, function(key, value)
    local target = { protocol = "imap", host = "127.0.0.1", port = 1 }
    target[key] = value
    nb.check_backend_connection(target)
  end)
  some = { "pool", "protocol", "ip", "host", "port", "tls", "node", "weight", "state" }
  keys_refused("route", some, function(key, value)
    nb.route("user", { [key] = value })
  end)
  keys_refused("set_target_state", { "reason", "by", "for" }, function(key, value)
    nb.set_target_state("node:one", "auto", { [key] = value })
  end)
  refused("touch_users", nb.touch_users, { light }, "one")
  refused("remove_from_backend_result", nb.remove_from_backend_result, { light })
  refused("check", nb.check_backend_connection().check, light)

  -- Results.
  for _, name in ipairs(SETTERS) do
    local result = class.new()
    refused("result:" .. name, result[name], result, light)
    refused("result." .. name, function() result[name] = light end)
    refused("result:" .. name .. " of it", result[name], light)
    refused("result:" .. name .. " of it", result[name], light, "x")
  end
  local result = class.new()
  refused("result[light]", function() return result[light] end)
  refused("result[light] =", function() result[light] = 1 end)
  for _, name in ipairs({ "groups", "group_dns", "webauthn_credentials" }) do
    refused(name, result[name], result, { light })
    refused(name, result[name], result, { [light] = "a" })
  end
  for _, attributes in ipairs({ { a = light }, { a = { light } }, { a = { [light] = "b" } }, { [light] = "a" } }) do
    refused("attributes", result.attributes, result, attributes)
    refused("attributes =", function() result.attributes = attributes end)
  end

  -- Contexts and checks.
  local context = nb.new_context()
  for _, name in ipairs(CONTEXT_METHODS) do
    refused("context:" .. name .. " of it", context[name], light)
  end
  refused("context:set_base", context.set_base, context, light)
  local check = nb.start_check("127.0.0.1", 1, false, false)
  for _, name in ipairs(CHECK_METHODS) do
    refused("check:" .. name .. " of it", check[name], light)
  end
  refused("check:wait", check.wait, check, light)
  check:cancel()

  -- Servers.
  for _, server in ipairs(nb.get_backend_servers()) do
    if server[light] ~= nil then
      problem("server[light]", server[light])
    end
    if pcall(function() server[light] = 1 end) then
      problem("server[light] =", "accepted")
    end
  end
  refused("dynamic_loader", dynamic_loader, light)
  return problems
end
