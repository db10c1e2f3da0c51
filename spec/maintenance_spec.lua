-- What operators set: drain and maintenance of targets and nodes, weights, and the events.

local engine = require("spec.support.engine")
local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")
local unpack = rawget(_G, "unpack") or rawget(table, "unpack")

describe("an operator's setting", function()
  local world, nb, a, b

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    a, b = world:open({}), world:open({})
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  local function config(overrides)
    local made = {
      connect_interval = "50ms", fast_interval = "50ms", log = "none",
      backend_servers = {
        { protocol = "imap", host = "127.0.0.1", port = a.port, node = "mail1", pool = "blue" },
        { protocol = "imap", host = "127.0.0.1", port = b.port, node = "mail2", pool = "blue" },
      },
    }
    for key, value in pairs(overrides or {}) do
      made[key] = value
    end
    return made
  end

  local function key(peer)
    return "imap://127.0.0.1:" .. peer.port
  end

  local function listed()
    local ports = {}
    for index, server in ipairs(nb.get_backend_servers()) do
      ports[index] = server.port
    end
    return ports
  end

  local function states()
    local found = {}
    for index, target in ipairs(nb.status().targets) do
      found[index] = target.state
    end
    return found
  end

  before_each(function()
    nb.configure(config())
    for _, what in ipairs({ key(a), key(b), "node:mail1", "node:mail2" }) do
      nb.set_target_state(what, "auto")
    end
    assert(nb.wait_ready(60))
  end)

  it("takes a target out of the list and puts it back, while probes go on", function()
    for _, state in ipairs({ "drain", "maintenance" }) do
      nb.set_target_state(key(a), state, { reason = "new kernel", by = "ann" })
      assert.are.same({ b.port }, listed())
      assert.are.same({ state, "auto" }, states())
      local target = nb.status().targets[1]
      assert.are.same({ "alive", "mail1", "blue" }, { target.verdict, target.node, target.pool })
      repeat until nb.status().targets[1].probes > target.probes + 2
      nb.set_target_state(key(a), "auto")
      assert.are.same({ a.port, b.port }, listed())
    end
  end)

  it("is in the status, with who, why and how long", function()
    assert.are.same({}, nb.status().operators)
    nb.set_target_state(key(a), "drain", { reason = "new kernel", by = "ann", ["for"] = "1h" })
    nb.set_node_weight("mail2", 7, { by = "bob" })
    local drain, weight = unpack(nb.status().operators)
    assert.are.same({ key(a), "drain", "new kernel", "ann" }, { drain.what, drain.state, drain.reason, drain.by })
    assert.is_true(math.abs(drain["until"] - drain.since - 3600) < 1 and math.abs(drain.since - os.time()) < 120)
    assert.are.same({ what = "node:mail2", weight = 7, by = "bob", since = weight.since }, weight)
    assert.is_truthy(nb.status_json():find('"by":"ann"', 1, true))
    nb.set_target_state(key(a), "auto")
    nb.set_node_weight("mail2", nil)
    assert.are.same({}, nb.status().operators)
  end)

  it("is that of a node's targets, and the stricter one counts", function()
    nb.set_target_state("node:mail2", "drain")
    assert.are.same({ a.port }, listed())
    nb.set_target_state(key(b), "maintenance")
    assert.are.same({ "auto", "maintenance" }, states())
    nb.set_target_state(key(b), "auto")
    assert.are.same({ "auto", "drain" }, states())
  end)

  it("outlives another configuration, in which its target is missing", function()
    nb.set_target_state(key(a), "drain")
    local other = config()
    table.remove(other.backend_servers, 1)
    nb.configure(other)
    assert.are.same({ b.port }, listed())
    nb.configure(config())
    assert.are.same({ b.port }, listed())
    assert.are.same({ "drain", "auto" }, states())
  end)

  it("counts neither for nor against panic", function()
    nb.configure(config({ panic_threshold = "60%" }))
    nb.set_target_state(key(a), "maintenance")
    -- One of one is alive: no panic, and the one in maintenance is not shown.
    assert.are.same({}, nb.status().panic)
    assert.are.same({ b.port }, listed())
  end)

  it("sends users to other nodes", function()
    local function ports()
      local found = {}
      for index = 1, 40 do
        local server = assert(nb.route("user" .. index, { pool = "blue" }))
        found[server.port] = true
      end
      return found
    end
    assert.are.same({ [a.port] = true, [b.port] = true }, ports())
    nb.set_target_state("node:mail1", "drain")
    assert.are.same({ [b.port] = true }, ports())
    nb.set_target_state("node:mail1", "auto")
    nb.set_node_weight("mail2", 0)
    assert.are.same({ [a.port] = true }, ports())
    nb.set_node_weight("mail2", nil)
    assert.are.same({ [a.port] = true, [b.port] = true }, ports())
  end)

  it("ends when its time is over", function()
    nb.set_target_state(key(a), "drain", { ["for"] = 0.5 })
    assert.are.same({ b.port }, listed())
    engine.eventually("the drain is over", function() return #listed() == 2 end)
    nb.set_target_state(key(a), "drain", { ["for"] = "500ms" })
    assert.are.same({ b.port }, listed())
    engine.eventually("the drain is over", function() return #listed() == 2 end)
    -- The list follows the clock; the event comes with the prober's next role check.
    local last
    engine.eventually("the event of it", function()
      local events = nb.events()
      repeat
        last = table.remove(events)
      until last.type == "operator"
      return last.to == "auto"
    end)
    assert.are.same({ key(a), "auto", "its time is over" }, { last.target, last.to, last.reason })
  end)

  it("is kept by the state file, whatever else is too old", function()
    local state_file = world:folder() .. "/operators"
    local script = ([[
      local nb = require("nauthilus_backend")
      local function configure()
        nb.configure({
          connect_interval = "50ms", log = "none", state_file = %q, state_max_age = "1s",
          backend_servers = { { protocol = "imap", host = "127.0.0.1", port = %d, node = "mail1" } },
        })
      end
      configure()
      %%s
    ]]):format(state_file, a.port)
    local output, ok = interpreter.run(script:format([[
      nb.set_target_state("node:mail1", "maintenance", { reason = "a \"new\" disk", by = "ann" })
      nb.set_node_weight("mail1", 9)
      assert(nb.wait_ready(60))
      repeat
        local file = io.open(]] .. string.format("%q", state_file) .. [[, "rb")
        local text = file and file:read("*a") or ""
        if file then file:close() end
      until text:find('operator what="node:mail1" state=maintenance', 1, true)
        and text:find('operator what="node:mail1" weight=9', 1, true)
    ]]))
    assert.is_true(ok, output)
    os.execute("sleep 1.1")
    output, ok = interpreter.run(script:format([[
      assert(#nb.get_backend_servers() == 0)
      assert(nb.status().targets[1].state == "maintenance")
      local state, weight
      for _, one in ipairs(nb.status().operators) do
        state, weight = state or one.state and one, weight or one.weight
      end
      assert(state.reason == "a \"new\" disk" and state.by == "ann" and weight == 9)
      nb.set_target_state("node:mail1", "auto")
      assert(#nb.get_backend_servers() == 1)
    ]]))
    assert.is_true(ok, output)
  end)

  it("reaches processes that share the state file but follow another's probes", function()
    local state_file = world:folder() .. "/shared"
    nb.configure(config({ state_file = state_file }))
    nb.start()
    assert(nb.wait_ready(60))
    local events = nb.events()
    local since = events[#events].seq
    local output, ok = interpreter.run(([[
      local nb = require("nauthilus_backend")
      nb.configure({
        connect_interval = "50ms", fast_interval = "50ms", log = "none", state_file = %q,
        backend_servers = {
          { protocol = "imap", host = "127.0.0.1", port = %d, node = "mail1", pool = "blue" },
          { protocol = "imap", host = "127.0.0.1", port = %d, node = "mail2", pool = "blue" },
        },
      })
      nb.start()
      assert(nb.wait_ready(60))
      assert(not nb.status().probing)
      -- A control character that Lua does not take for one.
      nb.set_target_state("node:mail1", "drain", { reason = "it\194\146s time", by = "the other one" })
      -- Until the prober, which is another process, has it in the file that both share.
      repeat
        local file = io.open(%q, "rb")
        local text = file and file:read("*a") or ""
        if file then file:close() end
        -- Behind the room for requests, where this process's own is.
      until text:find('operator what="node:mail1" state=drain', 16385, true)
    ]]):format(state_file, a.port, b.port, state_file))
    assert.is_true(ok, output)
    assert.are.same({ b.port }, listed())
    local seen = {}
    for _, event in ipairs((nb.events(since))) do
      if event.type == "operator" then
        seen[#seen + 1] = { event.node, event.from, event.to, event.reason, event.by }
      end
    end
    assert.are.same({ { "mail1", "auto", "drain", "it?s time", "the other one" } }, seen)
  end)

  it("is an event, with who and why", function()
    local before = nb.events()
    local since = before[#before].seq
    nb.set_target_state("node:mail1", "drain", { reason = "new kernel", by = "ann" })
    nb.set_node_weight("mail1", 0)
    nb.set_node_weight("mail1", nil)
    local events, lost = nb.events(since)
    assert.is_nil(lost)
    local seen = {}
    for _, event in ipairs(events) do
      if event.type == "operator" then
        seen[#seen + 1] = { event.node, event.from, event.to, event.reason, event.by }
      end
    end
    assert.are.same({
      { "mail1", "auto", "drain", "new kernel", "ann" },
      { "mail1", "as configured", "weight 0" },
      { "mail1", "weight 0", "as configured" },
    }, seen)
    assert.is_true(select(2, nb.events(since + 1000000)))
  end)

  -- The sequence number of the last event so far.
  local function last_seq()
    local events = nb.events()
    return #events > 0 and events[#events].seq or 0
  end

  -- The events of this type about a target or node after `since`: an earlier test may have had a
  -- target with the same port.
  local function events_of(kind, subject, since)
    local found = {}
    for _, event in ipairs((nb.events(since))) do
      if event.type == kind and (event.target == subject or event.node == subject) then
        found[#found + 1] = event
      end
    end
    return found
  end

  local function verdict_of(peer)
    for _, target in ipairs(nb.status().targets) do
      if target.port == peer.port then
        return target.verdict
      end
    end
  end

  it("coalesces the events of a target that flaps", function()
    local since = last_seq()
    -- A test of the minute before may have had a target with this port, whose events count as well.
    local function open_unknown()
      local peer
      repeat
        peer = world:open()
      until #events_of("verdict", key(peer), 0) == 0
      return peer
    end
    local peer, other = open_unknown(), open_unknown()
    nb.configure({
      connect_interval = "10ms", fast_interval = "10ms", log = "none",
      backend_servers = {
        { protocol = "imap", host = "127.0.0.1", port = peer.port },
        { protocol = "imap", host = "127.0.0.1", port = other.port },
      },
    })
    nb.start()
    assert(nb.wait_ready(60))
    for _ = 1, 5 do
      peer:close()
      engine.eventually("dead", function() return verdict_of(peer) == "dead" end)
      peer:reopen()
      engine.eventually("alive", function() return verdict_of(peer) == "alive" end)
    end
    -- The first verdict and three changes; seven more came within the minute.
    local events = events_of("verdict", key(peer), since)
    assert.are.equal(4, #events)
    assert.are.same({ "alive", "dead" }, { events[4].from, events[4].to })
    local of_other = {}
    for _, event in ipairs(events_of("verdict", key(other), since)) do
      of_other[#of_other + 1] = { event.from, event.to, event.reason }
    end
    assert.are.same({ { "unknown", "alive" } }, of_other)
  end)

  it("has events of certificates and of nodes", function()
    local soon = world:open({ tls = "soon", script = "send * OK ready\\r\\n" })
    nb.configure({
      connect_interval = "20ms", fast_interval = "20ms", log = "none", node_down_after = 0, node_up_after = 0,
      backend_servers = {
        { protocol = "imap", host = "127.0.0.1", port = soon.port, tls = true, tls_skip_verify = true, node = "mail9" },
      },
    })
    nb.start()
    assert(nb.wait_ready(60))
    engine.eventually("the certificate's", function() return #events_of("certificate", key(soon)) > 0 end)
    -- The certificate was made with seven days, to the second.
    assert.matches("^expires in [67] days$", events_of("certificate", key(soon))[1].reason)
    soon:close()
    engine.eventually("the node's first", function() return #events_of("node", "mail9") >= 1 end)
    soon:reopen()
    engine.eventually("the node's second", function() return #events_of("node", "mail9") >= 2 end)
    local told = events_of("node", "mail9")
    local down, up = told[1], told[2]
    assert.are.same({ "usable", "unusable", "dead" }, { down.from, down.to, down.reason })
    assert.are.same({ "unusable", "usable" }, { up.from, up.to })
  end)

  it("is refused where it means nothing", function()
    local cases = {
      { "set_target_state", "imap://127.0.0.1:1", "drain", "#1 .*no such target or node" },
      { "set_target_state", "node:mail3", "drain", "#1 .*no such target or node" },
      { "set_target_state", key(a), "down", "#2 .*auto, drain or maintenance expected, got" },
      { "set_target_state", key(a), nil, "#2 .*auto, drain or maintenance expected" },
      { "set_target_state", 1, "drain", "#1 .*string expected, got number" },
      { "set_node_weight", "mail3", 1, "#1 .*no such target or node" },
      { "set_node_weight", "mail1", 1001, "#2 .*integer 0..1000" },
      { "set_node_weight", "mail1", 0.5, "#2 .*integer 0..1000" },
      { "set_target_state", ("x"):rep(70000), "drain", '#1 .*no such target or node: "' .. ("x"):rep(64) .. '%.%.%."' },
      { "set_node_weight", ("x"):rep(70000), 1, '#1 .*no such target or node: "node:' .. ("x"):rep(59) .. '%.%.%."' },
    }
    for _, case in ipairs(cases) do
      local ok, err = pcall(function()
        nb[case[1]](case[2], case[3])
      end)
      assert.is_false(ok)
      assert.matches("maintenance_spec%.lua:%d+: bad argument " .. case[4], err)
    end
    local wrong = { 1, { why = "x" }, { reason = "a\nb" }, { by = 1 }, { ["for"] = 0 }, { ["for"] = "soon" } }
    for _, options in ipairs(wrong) do
      local ok, err = pcall(function()
        nb.set_target_state(key(a), "drain", options)
      end)
      assert.is_false(ok)
      assert.matches("maintenance_spec%.lua:%d+: bad argument #3 to 'set_target_state'", err)
    end
    assert.are.same({ "auto", "auto" }, states())
  end)
end)
