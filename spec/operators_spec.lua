-- metrics() and status_json(): what operators see.

local engine = require("spec.support.engine")
local interpreter = require("spec.support.interpreter")
local peers = require("spec.support.peers")

describe("what operators see", function()
  local nb, world, alive, closed

  lazy_setup(function()
    nb = require("nauthilus_backend")
    world = peers.new()
    alive, closed = world:open(), world:closed_port()
    nb.configure(engine.config({ engine.imap(alive.port), engine.imap(closed) }, { node_down_after = 0 }))
    assert.is_true(nb.wait_ready(30))
  end)

  lazy_teardown(function()
    nb.stop()
    world:stop()
  end)

  -- The value of the one line of the text that begins with these characters.
  local function value(text, line)
    local found = ("\n" .. text):match("\n" .. line:gsub("%p", "%%%0") .. " ([^\n]+)\n")
    return tonumber(found) or error("no line " .. line .. " in:\n" .. text, 2)
  end

  it("gives metrics and their content type", function()
    local text, content_type = nb.metrics()
    assert.are.equal("application/openmetrics-text; version=1.0.0; charset=utf-8", content_type)
    assert.are.equal("# EOF\n", text:sub(-6))
    assert.are.equal(1, value(text, ('nauthilus_backend_target_up{target="imap://127.0.0.1:%d"}'):format(alive.port)))
    assert.are.equal(0, value(text, ('nauthilus_backend_target_up{target="imap://127.0.0.1:%d"}'):format(closed)))
    assert.are.equal(1, value(text, 'nauthilus_backend_targets{protocol="imap",state="alive"}'))
    assert.are.equal(1, value(text, 'nauthilus_backend_targets{protocol="imap",state="dead"}'))
    assert.are.equal(0, value(text, 'nauthilus_backend_node_usable{node="127.0.0.1",pool=""}'))
    assert.are.equal(1, value(text, ('nauthilus_backend_build_info{version="%s"}'):format(nb._VERSION:match("%S+$"))))
  end)

  -- Two servers may differ in what is checked of them and have one key. A series stands for both.
  it("counts each of several servers with one key, and calls the key up while all are alive", function()
    local server = world:open({ script = "send * BYE not today\\r\\n" })
    local deep = engine.imap(server.port, { deep_check = true })
    finally(function()
      nb.configure(engine.config({ engine.imap(alive.port), engine.imap(closed) }, { node_down_after = 0 }))
      assert.is_true(nb.wait_ready(30))
    end)
    for _, servers in ipairs({ { engine.imap(server.port), deep }, { deep, engine.imap(server.port), deep } }) do
      nb.configure(engine.config(servers, { node_down_after = 0 }))
      assert.is_true(nb.wait_ready(30))
      local counts = { alive = 0, dead = 0 }
      for _, target in ipairs(nb.status().targets) do
        counts[target.verdict] = counts[target.verdict] + 1
      end
      assert.are.same({ alive = 1, dead = #servers - 1 }, counts)
      local text = nb.metrics()
      local key = ("{target=\"imap://127.0.0.1:%d\"}"):format(server.port)
      assert.are.equal(0, value(text, "nauthilus_backend_target_up" .. key))
      assert.are.equal(2, value(text, "nauthilus_backend_state_changes_total" .. key))
      for verdict, count in pairs(counts) do
        local line = ('nauthilus_backend_targets{protocol="imap",state="%s"}'):format(verdict)
        assert.are.equal(count, value(text, line))
      end
      local _, series = text:gsub("nauthilus_backend_target_up{", "")
      assert.are.equal(1, series)
    end
  end)

  -- Targets that were not probed have no certificates: a family without a sample, in as many steps as
  -- any other. The clock is the test's, so that each step takes too long.
  it("lets an event loop go on between steps that give no text", function()
    local output, well = interpreter.run([[
      local pauses, time = 0, 0
      os.clock = function() time = time + 1 return time end
      package.loaded.ngx = {
        get_phase = function() return "content" end, now = os.time, config = { subsystem = "http" },
        sleep = function() pauses = pauses + 1 end,
      }
      local nb = require("nauthilus_backend")
      local servers = {}
      for port = 1, 1000 do
        servers[port] = { protocol = "imap", host = "127.0.0.1", port = port }
      end
      nb.configure({ log = "none", connect_interval = "24h", backend_servers = servers })
      nb.stop()
      local before, most = 0, 0
      nb.metrics(function()
        most, before = math.max(most, pauses - before), pauses
      end)
      print("pauses between two pieces", most)
    ]])
    assert.is_true(well, output)
    local most = tonumber(output:match("pauses between two pieces%s+(%d+)"))
    -- 50 targets a step.
    assert.is_true(most ~= nil and most >= 20, output)
  end)

  it("goes on counting selections where another configuration has another table", function()
    local output, well = interpreter.run([[
      local nb = require("nauthilus_backend")
      for count = 1, 3 do
        local servers = {}
        for port = 1, count * 500 do
          servers[port] = { protocol = "imap", host = "127.0.0.1", port = port }
        end
        nb.configure({ log = "none", connect_interval = "24h", backend_servers = servers })
        nb.select_backend_server("127.0.0.1", 1)
        nb.select_backend_server("127.0.0.1", 1)
      end
      nb.stop()
      print(nb.metrics())
    ]])
    assert.is_true(well, output)
    assert.are.equal(6, value(output, "nauthilus_backend_selections_total"))
  end)

  it("tells what operators have set, and of panic", function()
    local key = ("imap://127.0.0.1:%d"):format(alive.port)
    local drained = ('nauthilus_backend_target_state{target="%s",state="drain"}'):format(key)
    assert.are.equal(0, value((nb.metrics()), drained))
    nb.set_target_state(key, "drain")
    assert.are.equal(1, value((nb.metrics()), drained))
    nb.set_target_state(key, "auto")
    assert.are.equal(0, value((nb.metrics()), drained))
    assert.are.equal(0, value((nb.metrics()), 'nauthilus_backend_panic{protocol="imap"}'))
    nb.configure(engine.config({ engine.imap(alive.port), engine.imap(closed) },
      { node_down_after = 0, panic_threshold = "60%" }))
    assert.are.equal(1, value((nb.metrics()), 'nauthilus_backend_panic{protocol="imap"}'))
    nb.configure(engine.config({ engine.imap(alive.port), engine.imap(closed) }, { node_down_after = 0 }))
  end)

  -- No verdict changes: panic depends on operators as well.
  it("has an event where an operator begins or ends panic", function()
    nb.configure(engine.config({ engine.imap(alive.port), engine.imap(closed) },
      { node_down_after = 0, panic_threshold = "50%" }))
    local key = ("imap://127.0.0.1:%d"):format(alive.port)
    local last, is_told = 0, false
    local function read()
      for _, event in ipairs(nb.events(last)) do
        last = event.seq
        if event.type == "panic" and event.target == "imap" then
          is_told = event.to == "panic"
        end
      end
      return is_told
    end
    local function await(is_panic)
      engine.eventually("an event that panic " .. (is_panic and "begins" or "ends"), function()
        return read() == is_panic
      end)
    end
    -- There may have been panic with an earlier configuration.
    await(false)
    nb.set_target_state(key, "drain")
    assert.are.same({ "imap" }, nb.status().panic)
    await(true)
    nb.set_target_state(key, "auto")
    assert.are.same({}, nb.status().panic)
    await(false)
    nb.configure(engine.config({ engine.imap(alive.port), engine.imap(closed) }, { node_down_after = 0 }))
  end)

  it("counts probes, which go on", function()
    local line = 'nauthilus_backend_probes_total{result="good",stage="total"}'
    local before = value((nb.metrics()), line)
    engine.eventually("a probe is counted", function()
      return value((nb.metrics()), line) > before
    end)
    local text = nb.metrics()
    local probed = value(text, 'nauthilus_backend_probe_duration_seconds_count{protocol="imap",stage="total"}')
    local last = 'nauthilus_backend_probe_duration_seconds_bucket{le="+Inf",protocol="imap",stage="total"}'
    assert.are.equal(probed, value(text, last))
    -- The time of each stage that it went through, beside that of the whole.
    local connected = 'nauthilus_backend_probe_duration_seconds_count{protocol="imap",stage="connect"}'
    assert.is_true(value(text, connected) > 0)
    local failed = 'nauthilus_backend_probes_total{result="failed",stage="connect"}'
    assert.is_true(value(text, failed) > 0)
  end)

  it("gives the text in pieces", function()
    local pieces = {}
    local content_type = nb.metrics(function(piece)
      pieces[#pieces + 1] = piece
    end)
    assert.are.equal("application/openmetrics-text; version=1.0.0; charset=utf-8", content_type)
    assert.are.equal("# EOF\n", table.concat(pieces):sub(-6))
    assert.has_error(function()
      nb.metrics(5)
    end, "bad argument #1 to 'metrics' (function or nil expected, got number)")
    assert.has_error(function()
      nb.metrics(function()
        error("full", 0)
      end)
    end, "full")
  end)

  it("gives the status as JSON", function()
    local json = nb.status_json()
    assert.matches('^{"pid":%d+,"configured":true,"running":true,', json)
    assert.matches(('"key":"imap://127%%.0%%.0%%.1:%d"'):format(alive.port), json)
    assert.matches('"verdict":"dead"', json)
    assert.is_nil(json:find("%c"))
  end)

  it("gives what else the page shows as JSON", function()
    local json = nb.status_json()
    assert.matches('"latencies":%[%d', json)
    assert.matches('"results":"f+"', json)
    assert.matches('"results":"g+"', json)
    assert.matches('"routing":false', json)
    assert.matches('"nodes":%[{[^}]*"node":"127%.0%.0%.1"', json)
    assert.matches('"events":%[{"seq":%d+', json)
    assert.matches('"configured_since":%d+%.?%d*', json)
    assert.matches('"prober":%d+', json)
  end)

  it("gives the status as a page", function()
    local page = nb.status_page({ nonce = "bm9uY2U=", title = "<i>Mail</i> & \226\128\174more" })
    assert.matches("^<!DOCTYPE html>", page)
    assert.matches("</html>$", page)
    assert.matches('<style nonce="bm9uY2U=">', page)
    assert.matches('<script nonce="bm9uY2U=">', page)
    assert.is_truthy(page:find("<h1>&lt;i&gt;Mail&lt;/i&gt; &amp; \\u{202e}more</h1>", 1, true))
    assert.is_truthy(page:find(("imap://127.0.0.1:%d"):format(closed), 1, true))
    assert.is_truthy(page:find("connect: connection refused", 1, true))
    assert.is_truthy(page:find("1 of 2 alive", 1, true))
    assert.is_truthy(nb.status_page():find('<style>', 1, true))
    assert.is_truthy(nb.status_page({ json_url = "/a?b&c" }):find('data-json="/a?b&amp;c"', 1, true))
  end)

  it("gives page and JSON in pieces", function()
    local function collected(make)
      local pieces = {}
      assert.is_nil(make(function(piece, ...)
        assert.are.equal(0, select("#", ...))
        pieces[#pieces + 1] = piece
      end))
      assert.is_true(#pieces > 3)
      return table.concat(pieces)
    end
    local page = collected(function(write)
      return nb.status_page({ title = "Pieces" }, write)
    end)
    assert.matches("^<!DOCTYPE html>.*<h1>Pieces</h1>.*</html>$", page)
    assert.matches("^{.*}$", collected(nb.status_json))
    assert.has_error(function()
      nb.status_json(5)
    end, "bad argument #1 to 'status_json' (function or nil expected, got number)")
    assert.has_error(function()
      nb.status_page(nil, "x")
    end, "bad argument #2 to 'status_page' (function or nil expected, got string)")
    assert.has_error(function()
      nb.metrics({})
    end, "bad argument #1 to 'metrics' (function or nil expected, got table)")
  end)

  it("says what an operator has set, not that a node is dead", function()
    local function why()
      return nb.nodes()[1].why, nb.explain_route("alice").candidates[1].why
    end
    assert.are.same({ "dead", "dead" }, { why() })
    for _, state in ipairs({ "drain", "maintenance" }) do
      nb.set_target_state("node:127.0.0.1", state)
      assert.are.same({ state, state }, { why() })
    end
    nb.set_target_state("node:127.0.0.1", "auto")
    -- One target of the node is enough.
    nb.set_target_state(("imap://127.0.0.1:%d"):format(alive.port), "maintenance")
    assert.are.same({ "maintenance", "maintenance" }, { why() })
    nb.set_target_state(("imap://127.0.0.1:%d"):format(alive.port), "auto")
    assert.are.same({ "dead", "dead" }, { why() })
  end)

  it("counts users without a server, by reason", function()
    local function refused(reason)
      return value(nb.metrics(), ('nauthilus_backend_routes_refused_total{reason="%s"}'):format(reason))
    end
    local unusable, no_key = refused("unusable"), refused("no key")
    assert.are.same({ nil, "unusable" }, { nb.route("alice", { port = closed }) })
    assert.are.same({ nil, "no key" }, { nb.route("") })
    assert.are.same({ nil, "no key" }, { nb.start_route("") })
    assert.are.equal(unusable + 1, refused("unusable"))
    assert.are.equal(no_key + 2, refused("no key"))
  end)

  it("refuses options of the page that are wrong", function()
    local function refused(options, why)
      assert.has_error(function()
        nb.status_page(options)
      end, "bad argument #1 to 'status_page' (" .. why .. ")")
    end
    refused(5, "table or nil expected, got number")
    refused({ nonce = 'a"b' }, [[nonce: text in Base64 expected, got "a\34b"]])
    refused({ title = 5 }, "title: text expected, got 5")
    refused({ nonces = "x" }, 'nonce, title or json_url expected, got "nonces"')
  end)
end)
