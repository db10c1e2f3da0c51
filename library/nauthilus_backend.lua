---@meta nauthilus_backend

-- Types and descriptions for editors with a Lua language server (LuaLS). This file is never executed: add its
-- folder to the editor's setting `Lua.workspace.library`.

---Makes a following `require(name)` of one of this module's names work; for any other name it
---does nothing. Scripts written for Nauthilus call it before `require`.
---@param name string
function dynamic_loader(name) end

---A server that is alive. Read-only.
---@class nauthilus_backend.Server
---@field ip string The address that the last good probe used; before that, the host.
---@field host string As configured.
---@field port integer
---@field protocol nauthilus_backend.Protocol
---@field tls boolean Whether TLS starts with the first byte.
---@field tls_mode nauthilus_backend.TlsMode
---@field tls_skip_verify boolean
---@field haproxy_v2 boolean Whether the listener expects a PROXY protocol v2 header.
---@field deep_check boolean
---@field request_uri string The path that an http deep check requests.
---@field node string The machine that the server is a port of.
---@field pool string The set of nodes that the node belongs to.
---@field weight integer An operator's setting, or the configured weight.
---@field state "auto"|"drain"|"maintenance" As operators have set it.

---@alias nauthilus_backend.Protocol "imap"|"pop3"|"lmtp"|"smtp"|"sieve"|"http"
---@alias nauthilus_backend.TlsMode "plain"|"implicit"|"starttls"
---@alias nauthilus_backend.Mechanism "auto"|"PLAIN"|"LOGIN"|"USERPASS"|"BASIC"

---Seconds, or a text such as "500ms", "10s", "1m30s", "14d".
---@alias nauthilus_backend.Duration number|string

---A value of an attribute.
---@alias nauthilus_backend.Value string|number|boolean|(string|number|boolean)[]

---One configured server; docs/configuration.md has the defaults and ranges.
---@class nauthilus_backend.Target
---@field protocol nauthilus_backend.Protocol
---@field host string A name, an IPv4 or IPv6 address. Also `ip`, `ip_address`.
---@field port? integer
---@field tls? boolean
---@field tls_mode? nauthilus_backend.TlsMode
---@field tls_skip_verify? boolean
---@field tls_server_name? string
---@field tls_ca_file? string
---@field tls_cert_file? string The client certificate, PEM; only with `tls_key_file`.
---@field tls_key_file? string
---@field tls_min_version? "1.2"|"1.3"
---@field haproxy_v2? boolean
---@field deep_check? boolean
---@field test_username? string
---@field test_password? string
---@field auth_mechanism? nauthilus_backend.Mechanism
---@field allow_plaintext_auth? boolean
---@field test_mailbox? string imap: opened read-only; pop3, sieve: with any value the mail store is read.
---@field request_uri? string
---@field http_method? "GET"|"HEAD"
---@field http_host? string The `Host` header of an http deep check, sent as it is.
---@field expected_status? integer|string|(integer|string)[] Of http: 200, "200-299,401", {200, "300-399"}.
---@field helo_name? string The name that the probe gives in EHLO and LHLO.
---@field node? string The machine that this target is a port of; default: host.
---@field pool? string
---@field weight? integer 0..1000, default 100.
---@field vital? boolean Default true.
---@field connect_timeout? nauthilus_backend.Duration
---@field tls_timeout? nauthilus_backend.Duration
---@field deep_timeout? nauthilus_backend.Duration
---@field connect_interval? nauthilus_backend.Duration
---@field deep_interval? nauthilus_backend.Duration
---@field fast_interval? nauthilus_backend.Duration
---@field failure_threshold? integer
---@field recovery_threshold? integer
---@field source_address? string The address of this machine that probes come from.

---@class nauthilus_backend.Config
---@field backend_servers nauthilus_backend.Target[] Also `targets`.
---@field connect_timeout? nauthilus_backend.Duration
---@field tls_timeout? nauthilus_backend.Duration
---@field deep_timeout? nauthilus_backend.Duration
---@field connect_interval? nauthilus_backend.Duration
---@field deep_interval? nauthilus_backend.Duration
---@field fast_interval? nauthilus_backend.Duration
---@field panic_threshold? string|integer A percentage: "30%", or 30.
---@field helo_name? string The name that probes give in EHLO and LHLO.
---@field failure_threshold? integer
---@field recovery_threshold? integer
---@field initial_state? "alive"|"dead"
---@field max_concurrent_probes? integer
---@field expose_attributes? string[]
---@field state_file? string
---@field state_max_age? nauthilus_backend.Duration
---@field tls_full_handshake_interval? nauthilus_backend.Duration
---@field cert_warn? nauthilus_backend.Duration
---@field log? string "stderr", "none", "syslog" or a path.
---@field node_usable? "all"|"any"|"match"
---@field node_down_after? nauthilus_backend.Duration
---@field node_up_after? nauthilus_backend.Duration
---@field user_key? "lower"|"exact"|"local"|"domain"
---@field master_separator? string
---@field detail_separator? string
---@field drain_time? nauthilus_backend.Duration
---@field cluster? nauthilus_backend.Cluster Where bindings of users to nodes are kept.

---@class nauthilus_backend.Cluster
---@field redis string "redis://host", "rediss://host", "unix:/path", "redis+sentinel://host,host/service".
---@field username? string
---@field password_file? string
---@field sentinel_password_file? string
---@field tls_ca_file? string
---@field tls_cert_file? string
---@field tls_key_file? string
---@field prefix? string
---@field timeout? nauthilus_backend.Duration
---@field retention? nauthilus_backend.Duration
---@field on_error? "remembered"|"hash"|"refuse"
---@field node_failover? "move"|"refuse"
---@field move_delay? nauthilus_backend.Duration
---@field min_stay? nauthilus_backend.Duration
---@field verdicts? "own"|"quorum"
---@field key_file? string

---@class nauthilus_backend.TargetStatus
---@field key string "imap://192.0.2.10:993"
---@field ip string
---@field host string
---@field port integer
---@field protocol nauthilus_backend.Protocol
---@field tls_mode nauthilus_backend.TlsMode
---@field deep_check boolean
---@field verdict "alive"|"dead"|"unknown"
---@field since? number Seconds since 1970.
---@field probes integer
---@field failures integer
---@field last_error? string
---@field last_latency? number Seconds.
---@field certificate_expiry? integer Seconds since 1970.
---@field certificate_expires_soon? boolean Within `cert_warn`.
---@field tls? nauthilus_backend.TlsDetails Details of the last full TLS handshake.
---@field state "auto"|"drain"|"maintenance" As operators have set it.
---@field node string
---@field pool string

---@class nauthilus_backend.TlsDetails
---@field at integer When the handshake was made, in seconds since 1970.
---@field protocol string "TLSv1.3"
---@field cipher string
---@field group? string The group of the key exchange.
---@field certificates integer How many certificates the server sent.
---@field chain nauthilus_backend.CertificateDetails[] The server's own first; at most 1,024 bytes are kept.

---@class nauthilus_backend.CertificateDetails
---@field subject string
---@field issuer string
---@field names string[] The host names and addresses that it is valid for; at most 1,024 bytes of the chain are kept.
---@field expiry? integer Seconds since 1970.

---@class nauthilus_backend.Status
---@field generation integer Changes when the list of alive servers changes.
---@field probing boolean Whether this process is the one that probes.
---@field running boolean Whether the engine thread runs in this process.
---@field pid integer
---@field configured boolean
---@field error? string "not configured", or why the engine does not run or the environment's file was refused.
---@field panic string[] The protocols of which all servers are listed because of `panic_threshold`.
---@field warnings string[] Doubtful settings, lost log lines and the like.
---@field operators nauthilus_backend.OperatorSetting[] The settings of operators that are in force.
---@field targets nauthilus_backend.TargetStatus[]

---@class nauthilus_backend.OperatorSetting
---@field what string A target's key, or `node:` and a node's name.
---@field state? "drain"|"maintenance" What `set_target_state` set.
---@field weight? integer What `set_node_weight` set.
---@field since number Seconds since 1970.
---@field until? number When it ends; nil: when it is set again.
---@field reason? string
---@field by? string

---A check that `start_check` has begun.
---@class nauthilus_backend.Check
local Check = {}

---Whether the check is done.
---@return boolean
function Check:done() end

---The reason of a failed check. Nil for a good check, and for one that is not done: see `done`.
---@return string? reason
function Check:result() end

---Details of the check's TLS handshake; nil if it made none.
---@return nauthilus_backend.TlsDetails?
function Check:tls() end

---A descriptor for an event loop: it becomes readable when the check is done. Do not read or close it.
---@return integer? fd
---@return string? why
function Check:fd() end

---Waits until the check is done.
---@param seconds? number
---@return true? done
---@return "timeout"? why
function Check:wait(seconds) end

---Ends a check that is not done yet: its result is then "cancelled".
function Check:cancel() end

---What scripts decide during one request: the selected server, attributes added and removed.
---@class nauthilus_backend.Context
local Context = {}

---Sets the base result, from which scripts remove attributes and to which they add others.
---@param result nauthilus_backend_result
function Context:set_base(result) end

---The final attributes: (base − removed) + applied.
---@return table<string, nauthilus_backend.Value>
function Context:attributes() end

---@return string[]
function Context:groups() end

---@return string? ip
---@return integer? port
function Context:selected() end

---@return string[]
function Context:removed() end

---The response headers by name.
---@return table<string, string>
function Context:headers() end

---Name and value of each response header, in a stable order.
---@return fun(): string?, string?
function Context:each_header() end

---Empties the context.
function Context:reset() end

---What a script knows about a user. A method sets a value if it has an argument, and returns the value if it has
---none. Assigning a field of the same name does what the setter does.
---@class nauthilus_backend_result
nauthilus_backend_result = {}

---@return nauthilus_backend_result
function nauthilus_backend_result.new() end

---@param value? boolean
---@return boolean
function nauthilus_backend_result:authenticated(value) end

---@param value? boolean
---@return boolean
function nauthilus_backend_result:user_found(value) end

---@param name? string
---@return string? name Nil if it is not set.
function nauthilus_backend_result:account_field(name) end

---@param name? string The attribute of that name never becomes a header.
---@return string? name Nil if it is not set.
function nauthilus_backend_result:totp_secret_field(name) end

---@param name? string The attribute of that name never becomes a header.
---@return string? name Nil if it is not set.
function nauthilus_backend_result:totp_recovery_field(name) end

---@param name? string
---@return string? name Nil if it is not set.
function nauthilus_backend_result:unique_user_id_field(name) end

---@param name? string
---@return string? name Nil if it is not set.
function nauthilus_backend_result:display_name_field(name) end

---@param values? table<string, nauthilus_backend.Value>
---@return table<string, nauthilus_backend.Value>
function nauthilus_backend_result:attributes(values) end

---@param values? string[]
---@return string[]
function nauthilus_backend_result:groups(values) end

---@param values? string[]
---@return string[]
function nauthilus_backend_result:group_dns(values) end

---@param values? string[]
---@return string[]
function nauthilus_backend_result:webauthn_credentials(values) end

---@class nauthilus_backend
---@field _VERSION string
local nauthilus_backend = {}

---Returns a new array of the servers that are alive, in configured order. Never waits.
---@return nauthilus_backend.Server[]
function nauthilus_backend.get_backend_servers() end

---Selects the server for this request, and sets the response headers `Auth-Server` and `Auth-Port`.
---@param ip string An address, or a host name.
---@param port integer
function nauthilus_backend.select_backend_server(ip, port) end

---Merges the result's attributes and groups into the request's.
---@param result nauthilus_backend_result
function nauthilus_backend.apply_backend_result(result) end

---Removes attributes of the base result by name.
---@param names string[]
function nauthilus_backend.remove_from_backend_result(names) end

---Makes one probe now and waits for it. Returns nil if it was good, else the reason. Without arguments it returns
---`{ check = f }`.
---@param ip string
---@param port integer
---@param haproxy_v2? boolean
---@param tls? boolean nil: as the configured server of this address has it
---@param options? nauthilus_backend.Target
---@return string? reason
---@overload fun(target: nauthilus_backend.Target|nauthilus_backend.Server): string?
---@overload fun(): { check: fun(target: nauthilus_backend.Target): true?, string? }
function nauthilus_backend.check_backend_connection(ip, port, haproxy_v2, tls, options) end

---Begins the same probe as `check_backend_connection` and does not wait.
---@param ip string
---@param port integer
---@param haproxy_v2? boolean
---@param tls? boolean nil: as the configured server of this address has it
---@param options? nauthilus_backend.Target
---@return nauthilus_backend.Check
function nauthilus_backend.start_check(ip, port, haproxy_v2, tls, options) end

---Replaces the configuration in one step. Raises an error if it is invalid; the old one then stays in force.
---@param config nauthilus_backend.Config|string A table, or the path of a YAML file.
function nauthilus_backend.configure(config) end

---Starts probing in this process; does nothing if the engine runs already.
---@return true? started
---@return string? why
function nauthilus_backend.start() end

---Ends probing in this process.
function nauthilus_backend.stop() end

---Waits until every server has a verdict.
---@param seconds? number
---@return true? ready
---@return string? why "timeout", "not configured", "stopped", why probing cannot start, or why the file of the
--- environment was refused.
function nauthilus_backend.wait_ready(seconds) end

---@return nauthilus_backend.Status
function nauthilus_backend.status() end

---@class nauthilus_backend.OperatorOptions
---@field reason? string
---@field by? string
---@field for? nauthilus_backend.Duration How long the setting lasts; nil: until it is set again.

---@class nauthilus_backend.Event
---@field seq integer
---@field time number Seconds since 1970.
---@field type string
---@field target? string
---@field node? string
---@field from? string
---@field to? string
---@field reason? string
---@field by? string

---Sets the state of a target or a node for all processes of the machine, with `cluster` for all machines.
---@param what string A target's key, or `node:NAME`.
---@param state "auto"|"drain"|"maintenance"
---@param options? nauthilus_backend.OperatorOptions
function nauthilus_backend.set_target_state(what, state, options) end

---Sets the weight of a node for all processes of the machine, with `cluster` for all machines.
---@param node string
---@param weight? integer 0..1000; nil: the configured weight.
---@param options? nauthilus_backend.OperatorOptions
function nauthilus_backend.set_node_weight(node, weight, options) end

---Returns the last 1,024 events, the oldest first.
---@param since? integer Only the events after this `seq`.
---@return nauthilus_backend.Event[]
---@return true? lost Some of the events after `since` are no longer kept.
function nauthilus_backend.events(since) end

---Reports that the host's own traffic to this server failed: the server is probed at once.
---@param ip string
---@param port integer
---@param reason? string
---@return boolean known False if the address is not configured.
function nauthilus_backend.report_failure(ip, port, reason) end

---@class nauthilus_backend.Filter Server fields that must be equal.
---@field pool? string|string[] Of several pools the first with a usable node counts.
---@field protocol? nauthilus_backend.Protocol
---@field ip? string
---@field host? string
---@field port? integer
---@field tls? boolean
---@field tls_mode? nauthilus_backend.TlsMode
---@field tls_skip_verify? boolean
---@field haproxy_v2? boolean
---@field deep_check? boolean
---@field request_uri? string
---@field node? string
---@field weight? integer
---@field state? "auto"|"drain"|"maintenance"

---Returns the server that a user belongs on.
---@param user string
---@param filter? nauthilus_backend.Filter
---@return nauthilus_backend.Server? server
---@return string how "hash", "new", "bound", "moved", "pinned", "remembered", "fallback", or why there is none.
---@return nauthilus_backend.RouteDetail? detail
function nauthilus_backend.route(user, filter) end

---@class nauthilus_backend.RouteDetail
---@field node string
---@field pool string
---@field degraded boolean
---@field from? string The node that the user was moved from.
---@field since? number Seconds since 1970.
---@field until? number Seconds since 1970; nil: without end.
---@field reason? string
---@field by? string

---@class nauthilus_backend.Route
local Route = {}
---@return boolean
function Route:done() end
---What `route` returns; nothing before the route is done.
---@return nauthilus_backend.Server? server
---@return string? how
---@return nauthilus_backend.RouteDetail? detail
function Route:result() end
---@return integer? fd
---@return string? why
function Route:fd() end
---@param timeout? number Seconds.
---@return true? done
---@return "timeout"? why
function Route:wait(timeout) end
---Ends a route that is not done yet: its result is then nil, "cancelled".
function Route:cancel() end

---Begins the same as `route` and does not wait.
---@param user string
---@param filter? nauthilus_backend.Filter
---@return nauthilus_backend.Route? route
---@return string? why
function nauthilus_backend.start_route(user, filter) end

---Explains which server a login of the user would get now. Changes nothing.
---@param user string
---@param filter? nauthilus_backend.Filter
---@return table? explained
---@return string? why
function nauthilus_backend.explain_route(user, filter) end

---@class nauthilus_backend.Author
---@field reason? string At most 100 bytes.
---@field by? string Who makes the change; at most 100 bytes.

---@class nauthilus_backend.MoveOptions: nauthilus_backend.Author
---@field keep? boolean The binding has no end, and no failure of the node moves the user.

---@class nauthilus_backend.FlushOptions: nauthilus_backend.Author
---@field rate? integer Bindings a second, default 100.

---@class nauthilus_backend.Changed
---@field left boolean Whether the call took the user away from a node.
---@field node? string
---@field from? string The node that the user was moved from.
---@field since? number Seconds since 1970.
---@field until? number Seconds since 1970; nil: without end.
---@field reason? string
---@field by? string

---Renews the bindings of users who have sessions on a node. This call and the next four need `cluster`.
---@param users string[]
---@param node string
---@return integer? count How many of the users are bound to the node.
---@return string? why
function nauthilus_backend.touch_users(users, node) end

---Binds a user to a node.
---@param user string
---@param node string
---@param options? nauthilus_backend.MoveOptions
---@return true? done
---@return nauthilus_backend.Changed|string changed Or why not.
function nauthilus_backend.move_user(user, node, options) end

---Unbinds a user.
---@param user string
---@param options? nauthilus_backend.Author
---@return true? done
---@return nauthilus_backend.Changed|string changed Or why not.
function nauthilus_backend.forget_user(user, options) end

---For this duration `route` returns no server for the user; 0 ends an earlier hold.
---@param user string
---@param duration nauthilus_backend.Duration
---@param options? nauthilus_backend.Author
---@return true? done
---@return nauthilus_backend.Changed|string changed Or why not.
function nauthilus_backend.hold_user(user, duration, options) end

---Begins to release the bindings of a node; without `node`, all bindings that differ from rendezvous hashing.
---@param node? string
---@param options? nauthilus_backend.FlushOptions
---@return true? begun
---@return string? why
function nauthilus_backend.flush_node(node, options) end

---Returns the metrics as text in OpenMetrics 1.0.
---@return string text
---@return string content_type
function nauthilus_backend.metrics() end

---Passes the metrics to `write` in pieces of at most 64 kB.
---@param write fun(piece: string, content_type: string)
---@return string content_type
function nauthilus_backend.metrics(write) end

---Returns the content of `status` as JSON, and more for the status page.
---@return string
function nauthilus_backend.status_json() end

---Passes this JSON to `write` in pieces.
---@param write fun(piece: string)
function nauthilus_backend.status_json(write) end

---@class nauthilus_backend.PageOptions
---@field nonce? string The nonce of the response's Content-Security-Policy, in Base64.
---@field title? string Default: "Backend servers".
---@field json_url? string The address at which the page reads `status_json`. Default: "status.json" beside the page.

---Returns the status as one HTML page, which loads nothing but `json_url`.
---@param options? nauthilus_backend.PageOptions
---@return string
function nauthilus_backend.status_page(options) end

---Passes this page to `write` in pieces.
---@param options? nauthilus_backend.PageOptions
---@param write fun(piece: string)
function nauthilus_backend.status_page(options, write) end

---@class nauthilus_backend.NodeInfo
---@field node string
---@field pool string
---@field weight integer
---@field usable boolean
---@field why? string Why the node is not usable.
---@field state "auto"|"drain"|"maintenance"
---@field since? number When an operator set this state, in seconds since 1970.
---@field users? integer Only with `cluster`: how many users are bound to the node; above about 4,000 an estimate.
---@field moved_in? integer Only with `cluster`: how many users were moved to the node.
---@field moved_out? integer Only with `cluster`: how many users were moved away from the node.

---Returns all nodes.
---@return nauthilus_backend.NodeInfo[]? nodes
---@return string? why
function nauthilus_backend.nodes() end

---Returns whether a health check logs in as this user.
---@param username string
---@return boolean
function nauthilus_backend.is_health_check(username) end

---Returns the current request context.
---@return nauthilus_backend.Context
function nauthilus_backend.context() end

---@return nauthilus_backend.Context
function nauthilus_backend.new_context() end

---Calls `fn(...)` with `context` as the current one.
---@param context nauthilus_backend.Context
---@param fn function
---@param ... any
---@return any ...
function nauthilus_backend.with_context(context, fn, ...) end

---@return nauthilus_backend_result
function nauthilus_backend.get_current_backend_result() end

---@return string? ip
---@return integer? port
function nauthilus_backend.get_selected_backend_server() end

---@return string[]
function nauthilus_backend.get_removed_backend_attributes() end

return nauthilus_backend
