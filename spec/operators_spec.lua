-- metrics() and status_json(): what operators see.

local engine = require("spec.support.engine")
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
end)
