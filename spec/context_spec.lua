-- The request context: select, apply, remove, and what a host reads afterwards.

local misuse = require("spec.support.misuse")
local nb = require("nauthilus_backend")
local class = require("nauthilus_backend_result")

local function result(attributes, groups)
  local b = class.new()
  b:attributes(attributes)
  b:groups(groups or {})
  return b
end

-- "Name: value" of each header, in the order each_header gives them.
local function lines(context)
  local found = {}
  for name, value in context:each_header() do
    found[#found + 1] = name .. ": " .. value
  end
  return found
end

describe("the request context", function()
  local context

  before_each(function()
    context = nb.context()
    context:reset()
  end)

  after_each(function()
    context:reset()
  end)

  describe("select_backend_server", function()
    it("records the server for the headers", function()
      assert.equal(0, select("#", nb.select_backend_server("10.0.0.1", 993)))
      assert.same({ "Auth-Server: 10.0.0.1", "Auth-Port: 993" }, lines(context))
      local ip, port = nb.get_selected_backend_server()
      assert.equal("10.0.0.1", ip)
      assert.equal(993, port)
      local math_type = rawget(math, "type")
      if math_type then
        assert.equal("integer", math_type(port))
      end
    end)

    it("replaces an earlier one", function()
      nb.select_backend_server("10.0.0.1", 993)
      nb.select_backend_server("10.0.0.2", 1)
      assert.same({ "Auth-Server: 10.0.0.2", "Auth-Port: 1" }, lines(context))
    end)

    it("gives two nils where there is none", function()
      assert.equal(2, select("#", nb.get_selected_backend_server()))
      assert.equal(2, select("#", context:selected()))
      assert.is_nil((context:selected()))
    end)

    it("takes literals, without their brackets, and names", function()
      for given, kept in pairs({
        ["127.0.0.1"] = "127.0.0.1",
        ["[::1]"] = "::1",
        ["2001:db8::1"] = "2001:db8::1",
        ["2001:DB8:0::1"] = "2001:DB8:0::1",
        ["unconfigured.example.org"] = "unconfigured.example.org",
        ["unconfigured.example.org."] = "unconfigured.example.org.",
      }) do
        nb.select_backend_server(given, 993)
        assert.equal(kept, (nb.get_selected_backend_server()))
      end
    end)

    it("takes the name of a target for its current address", function()
      local peers = require("spec.support.peers")
      local world = peers.new()
      finally(function()
        nb.stop()
        nb.configure({ log = "none", backend_servers = {} })
        world:stop()
      end)
      local port = world:open().port
      nb.configure({
        log = "none",
        backend_servers = { { protocol = "imap", host = "localhost", port = port } },
      })
      assert(nb.wait_ready(60))
      -- It listens on 127.0.0.1 alone, whatever else the name resolves to.
      for _, name in ipairs({ "localhost", "localhost.", "LOCALHOST" }) do
        nb.select_backend_server(name, port)
        assert.equal("127.0.0.1", (nb.get_selected_backend_server()))
      end
    end)

    it("takes a port as Lua coerces it", function()
      for _, port in ipairs({ 993, 993.0, "993", " 993 ", "993.0", "0x3e1", "9.93e2" }) do
        nb.select_backend_server("::1", 1)
        nb.select_backend_server("::1", port)
        assert.equal("993", context:headers()["Auth-Port"])
      end
      nb.select_backend_server("::1", 65535)
      assert.equal("65535", context:headers()["Auth-Port"])
    end)

    it("refuses anything else and changes nothing", function()
      nb.select_backend_server("10.0.0.1", 993)
      misuse(function() nb.select_backend_server("10.0.0.2", 70000) end,
        "bad argument #2 to 'select_backend_server' (integer 1..65535 expected, got 70000)")
      for shown, port in pairs({
        ["0"] = 0, ["-1"] = -1, ["65536"] = 65536, ["1.5"] = 1.5, ['"imap"'] = "imap", ['""'] = "",
      }) do
        misuse(function() nb.select_backend_server("10.0.0.2", port) end,
          "(integer 1..65535 expected, got " .. shown .. ")")
      end
      for _, port in ipairs({ 0 / 0, math.huge, -math.huge, true, {}, print }) do
        misuse(function() nb.select_backend_server("10.0.0.2", port) end,
          "bad argument #2 to 'select_backend_server'")
      end
      misuse(function() nb.select_backend_server("10.0.0.2") end, "(integer 1..65535 expected, got nil)")
      for _, ip in ipairs({
        "", "10.0.0.300", "10.0.0.1:993", "[10.0.0.1]", "[imap]", "[::1", "a b", "1.2.3", "a..b", "-a", "fe80::1%eth0",
        "10.0.0.1\r\nX: y", "10.0.0.1\0", "\255", ("a"):rep(64), ("a."):rep(130),
      }) do
        local message = misuse(function() nb.select_backend_server(ip, 993) end,
          "bad argument #1 to 'select_backend_server' (IPv4 or IPv6 address or host name expected, got ")
        assert.is_nil(message:find("[%c\128-\255]"))
        assert.is_true(#message < 300)
      end
      for _, ip in ipairs({ 10, true, {} }) do
        misuse(function() nb.select_backend_server(ip, 993) end,
          "bad argument #1 to 'select_backend_server' (string expected, got " .. type(ip))
      end
      misuse(function() nb.select_backend_server() end,
        "bad argument #1 to 'select_backend_server' (string expected, got nil)")
      assert.same({ "Auth-Server: 10.0.0.1", "Auth-Port: 993" }, lines(context))
    end)
  end)

  describe("apply_backend_result", function()
    it("makes each attribute a header", function()
      nb.apply_backend_result(result({
        hostip = "10.0.0.1", ["Proxy-Host"] = "p", user_name = "u", hostID = "h",
        whole = 10000000, float = 1e7, fraction = 0.5, yes = true, no = false,
        list = { "a", 1, true }, dn = { "cn=a,o=x", "cn=b,o=x" }, empty = "",
      }))
      assert.same({
        "X-Nauthilus-Dn: cn=a,o=x;cn=b,o=x",
        "X-Nauthilus-Empty: ",
        "X-Nauthilus-Float: 10000000",
        "X-Nauthilus-Fraction: 0.5",
        "X-Nauthilus-Hostid: h",
        "X-Nauthilus-Hostip: 10.0.0.1",
        "X-Nauthilus-List: a,1,true",
        "X-Nauthilus-No: false",
        "X-Nauthilus-Proxy-Host: p",
        "X-Nauthilus-User-Name: u",
        "X-Nauthilus-Whole: 10000000",
        "X-Nauthilus-Yes: true",
      }, lines(context))
    end)

    it("takes a copy", function()
      local b = result({ a = "1", list = { "x" } })
      nb.apply_backend_result(b)
      b:attributes({ a = "2", c = "3" })
      assert.same({ a = "1", list = { "x" } }, context:attributes())
      nb.apply_backend_result(b)
      assert.same({ a = "2", c = "3", list = { "x" } }, context:attributes())
      context:attributes().a = "9"
      assert.equal("2", context:attributes().a)
    end)

    it("lets the later win among applied ones", function()
      nb.apply_backend_result(result({ a = "1", b = "1" }))
      nb.apply_backend_result(result({ a = "2", c = "2" }))
      nb.apply_backend_result(result({}))
      assert.same({ a = "2", b = "1", c = "2" }, context:attributes())
    end)

    it("merges groups: trimmed, sorted, unique", function()
      nb.apply_backend_result(result({}, { " staff ", "admins", "" }))
      nb.apply_backend_result(result({}, { "staff", "\tusers\n", "  " }))
      assert.same({ "admins", "staff", "users" }, context:groups())
    end)

    it("does not merge other fields", function()
      local b = result({ mail = "x" })
      b:authenticated(true)
      b:account_field("mail")
      nb.apply_backend_result(b)
      assert.is_false(nb.get_current_backend_result():authenticated())
      assert.is_nil(nb.get_current_backend_result():account_field())
    end)

    it("refuses what could start a second header, and changes nothing", function()
      nb.apply_backend_result(result({ a = "1" }))
      for _, bad in ipairs({ "x\ry", "x\ny", "x\0y", "\n", { "x", "y\r\nSet-Cookie: z" } }) do
        local b = result({ a = "2", bad = bad })
        local message = misuse(function() nb.apply_backend_result(b) end,
          [[bad argument #1 to 'apply_backend_result' (attribute "bad": the value must not contain CR, LF or NUL)]])
        assert.is_nil(message:find("%c"))
      end
      for _, name in ipairs({ "a\r\nb", "a\0", "a b", "a:b", "ä", "" }) do
        local b = result({ [name] = "x" })
        misuse(function() nb.apply_backend_result(b) end, "bad argument #1 to 'apply_backend_result' (attribute ")
      end
      local long = result({ [("n"):rep(257)] = "x" })
      misuse(function() nb.apply_backend_result(long) end, "a name of 1..256 bytes expected, got 257")
      for _, number in ipairs({ 0 / 0, 1 / 0, -1 / 0 }) do
        local b = result({ n = number })
        misuse(function() nb.apply_backend_result(b) end, [[attribute "n": a finite number expected]])
      end
      assert.same({ a = "1" }, context:attributes())
      nb.apply_backend_result(result({ [("n"):rep(256)] = "ok" }))
    end)

    it("refuses what is no result", function()
      for _, wrong in ipairs({ { a = "b" }, "x", 1, io.stdout, nb.new_context(), class }) do
        misuse(function() nb.apply_backend_result(wrong) end,
          "bad argument #1 to 'apply_backend_result' (nauthilus_backend_result expected, got " .. type(wrong))
      end
      misuse(function() nb.apply_backend_result() end, "(nauthilus_backend_result expected, got nil)")
    end)

    it("never makes a secret a header", function()
      local b = result({
        password = "s", userPassword = "s", access_token = "s", ["private-key"] = "s", recoveryCodes = { "s" },
        seed = "s", rescue = "s", passport = "s", keyboard = "k",
      })
      b:totp_secret_field("seed")
      b:totp_recovery_field("rescue")
      b:webauthn_credentials({ "s" })
      nb.apply_backend_result(b)
      assert.same({ "X-Nauthilus-Keyboard: k" }, lines(context))
      assert.equal("s", context:attributes().userPassword)
    end)

    it("makes those headers that the configuration exposes", function()
      nb.apply_backend_result(result({ access_token = "t", userPassword = "s" }))
      assert.same({}, lines(context))
      nb.configure({ log = "none", backend_servers = {}, expose_attributes = { "access_token" } })
      assert.same({ "X-Nauthilus-Access-Token: t" }, lines(context))
      nb.configure({ log = "none", backend_servers = {} })
      assert.same({}, lines(context))
      nb.stop()
    end)
  end)

  describe("remove_from_backend_result", function()
    it("uncovers nothing of the base, and lets applied ones in", function()
      context:set_base(result({ ["Proxy-Host"] = "base", kept = "base" }))
      nb.apply_backend_result(result({ ["Proxy-Host"] = "applied", kept = "applied", new = "applied" }))
      assert.same({ ["Proxy-Host"] = "base", kept = "base", new = "applied" }, context:attributes())
      assert.equal(0, select("#", nb.remove_from_backend_result({ "Proxy-Host" })))
      assert.same({ ["Proxy-Host"] = "applied", kept = "base", new = "applied" }, context:attributes())
    end)

    it("comes before addition, whatever the order of calls", function()
      nb.remove_from_backend_result({ "a", "b" })
      context:set_base(result({ a = "base", b = "base" }))
      nb.apply_backend_result(result({ a = "applied" }))
      assert.same({ a = "applied" }, context:attributes())
    end)

    it("looks at names with their case", function()
      context:set_base(result({ ["Proxy-Host"] = "base" }))
      nb.remove_from_backend_result({ "proxy-host" })
      assert.same({ ["Proxy-Host"] = "base" }, context:attributes())
    end)

    it("remembers the names in order, each once", function()
      nb.remove_from_backend_result({ "b", "a" })
      nb.remove_from_backend_result({ "a", "c", "not\na name" })
      nb.remove_from_backend_result({})
      assert.same({ "b", "a", "c", "not\na name" }, nb.get_removed_backend_attributes())
      assert.same({ "b", "a", "c", "not\na name" }, context:removed())
    end)

    it("refuses what is no array of strings, and changes nothing", function()
      misuse(function() nb.remove_from_backend_result("Proxy-Host") end,
        "bad argument #1 to 'remove_from_backend_result' (array of strings expected, got string)")
      misuse(function() nb.remove_from_backend_result() end, "(array of strings expected, got nil)")
      misuse(function() nb.remove_from_backend_result({ "a", 2 }) end, "got number at index 2")
      misuse(function() nb.remove_from_backend_result({ a = true }) end, "got a table with other keys than 1..n")
      assert.same({}, context:removed())
    end)
  end)

  it("counts two names of one header as one, the later wins", function()
    context:set_base(result({ hostip = "base" }))
    nb.apply_backend_result(result({ HostIP = "applied" }))
    assert.same({ hostip = "base", HostIP = "applied" }, context:attributes())
    assert.same({ "X-Nauthilus-Hostip: applied" }, lines(context))
    nb.apply_backend_result(result({ HOSTIP = "third" }))
    assert.same({ "X-Nauthilus-Hostip: third" }, lines(context))
  end)

  it("gives the current result as a copy of its own", function()
    local base = result({ a = "base" }, { "g" })
    base:authenticated(true)
    base:account_field("a")
    context:set_base(base)
    nb.apply_backend_result(result({ b = "applied" }, { "h" }))
    local current = nb.get_current_backend_result()
    assert.is_true(current:authenticated())
    assert.equal("a", current:account_field())
    assert.same({ a = "base", b = "applied" }, current:attributes())
    assert.same({ "g", "h" }, current:groups())
    current:attributes({ c = "x" })
    assert.same({ a = "base", b = "applied" }, context:attributes())
    base:attributes({})
    assert.same({ a = "base", b = "applied" }, context:attributes())
  end)

  it("gives its headers as a table too", function()
    nb.select_backend_server("::1", 143)
    nb.apply_backend_result(result({ a = "1" }))
    assert.same({ ["Auth-Server"] = "::1", ["Auth-Port"] = "143", ["X-Nauthilus-A"] = "1" }, context:headers())
  end)

  it("tells adapters of hosts that set headers at once what changed", function()
    -- No adapter of a plain host asks: this is what the functions of the API call for the others.
    local report = debug.getregistry()["nauthilus_backend.parts"].context.report
    local function changes()
      local list = {}
      report(context, function(name, value)
        list[#list + 1] = name
        list[#list + 1] = value
      end)
      return list
    end
    changes()
    nb.select_backend_server("::1", 143)
    nb.apply_backend_result(result({ a = "1" }))
    assert.same({ "Auth-Server", "::1", "Auth-Port", "143", "X-Nauthilus-A", "1" }, changes())
    assert.same({}, changes())
    nb.remove_from_backend_result({ "a", "Proxy-Host" })
    nb.apply_backend_result(result({ a = "2" }))
    assert.same({ "X-Nauthilus-Proxy-Host", false, "X-Nauthilus-A", "2" }, changes())
    context:reset()
    assert.same({ "Auth-Server", false, "Auth-Port", false, "X-Nauthilus-A", false }, changes())
  end)

  it("iterates over the headers as they were at the start", function()
    nb.apply_backend_result(result({ a = "1", b = "2" }))
    local found = {}
    for name in context:each_header() do
      context:reset()
      found[#found + 1] = name
    end
    assert.same({ "X-Nauthilus-A", "X-Nauthilus-B" }, found)
  end)

  it("forgets everything on reset", function()
    context:set_base(result({ a = "1" }, { "g" }))
    nb.select_backend_server("::1", 143)
    nb.apply_backend_result(result({ b = "1" }))
    nb.remove_from_backend_result({ "c" })
    context:reset()
    assert.same({}, context:headers())
    assert.same({}, context:attributes())
    assert.same({}, context:groups())
    assert.same({}, context:removed())
    assert.is_nil((context:selected()))
  end)

  it("says what is wrong with its own methods", function()
    local method = context.headers
    misuse(function() context.headers() end,
      "bad self in 'headers' (request context expected, got nil; call it with ':')")
    misuse(function() method(class.new()) end, "bad self in 'headers' (request context expected, got userdata")
    misuse(function() context.selected({}) end, "bad self in 'selected'")
    misuse(function() context.each_header({}) end, "bad self in 'each_header'")
    misuse(function() context.set_base({}, class.new()) end, "bad self in 'set_base'")
    misuse(function() context:set_base({}) end,
      "bad argument #1 to 'set_base' (nauthilus_backend_result expected, got table)")
    misuse(function() context:set_base(result({ a = "\n" })) end,
      [[bad argument #1 to 'set_base' (attribute "a": the value]])
    misuse(function() context:hedders() end, [[request context has no method "hedders"; did you mean 'headers'?]])
    misuse(function() context.base = 1 end, 'request context has no field "base" to set')
  end)
end)

describe("with_context", function()
  it("runs a function under a context of its own", function()
    nb.context():reset()
    local own = nb.new_context()
    local a, b, c = nb.with_context(own, function(...)
      nb.select_backend_server("::1", 1)
      assert.equal("::1", (nb.context():selected()))
      return ...
    end, 1, nil, 3)
    assert.same({ 1, nil, 3 }, { a, b, c })
    assert.equal("::1", (own:selected()))
    assert.is_nil((nb.context():selected()))
  end)

  it("nests", function()
    local outer, inner = nb.new_context(), nb.new_context()
    nb.with_context(outer, function()
      nb.with_context(inner, function() nb.select_backend_server("::2", 2) end)
      nb.select_backend_server("::1", 1)
    end)
    assert.equal("::1", (outer:selected()))
    assert.equal("::2", (inner:selected()))
  end)

  it("restores the context when the function raises, and passes the error on unchanged", function()
    local default, value = nb.context(), { "an error value" }
    local own = nb.new_context()
    local ok, raised = pcall(nb.with_context, own, function() error(value) end)
    assert.is_false(ok)
    assert.equal(value, raised)
    local _, text = pcall(nb.with_context, own, function() error("as it is", 0) end)
    assert.equal("as it is", text)
    local again, nothing = pcall(nb.with_context, own, function() error() end)
    assert.is_false(again)
    -- Lua 5.5 makes a text of an error that is nil.
    local _, expected = pcall(error)
    assert.equal(expected, nothing)
    nb.select_backend_server("::3", 3)
    assert.equal("::3", (default:selected()))
    default:reset()
  end)

  it("keeps apart coroutines that yield in turns", function()
    -- Lua 5.1 cannot yield across the pcall that restores the context.
    if _VERSION == "Lua 5.1" and not jit then
      return
    end
    local default = nb.context()
    default:reset()
    local function request(context, ip)
      return coroutine.create(function()
        nb.with_context(context, function()
          nb.select_backend_server(ip, 1)
          coroutine.yield()
          assert(context:selected() == ip)
          nb.remove_from_backend_result({ ip })
          coroutine.yield()
        end)
        nb.remove_from_backend_result({ "default" })
      end)
    end
    local one, other = nb.new_context(), nb.new_context()
    local first, second = request(one, "::1"), request(other, "::2")
    for _ = 1, 3 do
      assert(coroutine.resume(first))
      nb.select_backend_server("::9", 9)
      assert(coroutine.resume(second))
    end
    assert.same({ "::1" }, one:removed())
    assert.same({ "::2" }, other:removed())
    assert.equal("::9", (default:selected()))
    assert.same({ "default" }, default:removed())
    default:reset()
  end)

  it("counts for coroutines that a function in a coroutine runs", function()
    local default, outer, inner = nb.context(), nb.new_context(), nb.new_context()
    default:reset()
    local function select_in_coroutine(ip)
      coroutine.wrap(function() nb.select_backend_server(ip, 1) end)()
    end
    coroutine.wrap(function()
      nb.with_context(outer, function()
        coroutine.wrap(function()
          nb.with_context(inner, select_in_coroutine, "::6")
        end)()
        select_in_coroutine("::5")
      end)
      select_in_coroutine("::7")
    end)()
    assert.same({ "::5", "::6", "::7" }, { (outer:selected()), (inner:selected()), (default:selected()) })
    default:reset()
  end)

  it("counts for coroutines that a coroutine of the main thread's function runs", function()
    local outer, inner = nb.new_context(), nb.new_context()
    nb.with_context(outer, function()
      coroutine.wrap(function()
        nb.with_context(inner, function()
          coroutine.wrap(function() nb.select_backend_server("::8", 8) end)()
        end)
      end)()
    end)
    assert.equal("::8", (inner:selected()))
    assert.is_nil((outer:selected()))
  end)

  it("does not count any more where its coroutine never ended it", function()
    -- Lua 5.1 cannot yield across the pcall of with_context.
    if _VERSION == "Lua 5.1" and not jit then
      return
    end
    local default = nb.context()
    default:reset()
    for _ = 1, 100 do
      coroutine.wrap(function() nb.with_context(nb.new_context(), coroutine.yield) end)()
    end
    local ended = coroutine.create(function() nb.with_context(nb.new_context(), coroutine.yield) end)
    coroutine.resume(ended)
    local close = rawget(coroutine, "close")
    if close then
      close(ended)
    end
    collectgarbage()
    collectgarbage()
    coroutine.wrap(function() nb.select_backend_server("::9", 9) end)()
    nb.select_backend_server("::9", 10)
    assert.equal(10, select(2, default:selected()))
    default:reset()
  end)

  it("slows calls of the main thread for a while only where its coroutine never ended it", function()
    -- Lua 5.1 cannot yield across the pcall of with_context.
    if _VERSION == "Lua 5.1" and not jit then
      return
    end
    -- Index 1 is what most calls read and nothing else; it is nil while contexts may differ.
    local shared = debug.getregistry()["nauthilus_backend.parts"].host.shared
    local default = nb.context()
    local living = coroutine.create(function() nb.with_context(nb.new_context(), coroutine.yield) end)
    coroutine.resume(living)
    for _ = 1, 100 do
      coroutine.wrap(function() nb.with_context(nb.new_context(), coroutine.yield) end)()
    end
    collectgarbage()
    collectgarbage()
    local function call_often()
      for _ = 1, 1100 do
        assert(nb.context() == default)
      end
    end
    call_often()
    assert.is_nil(shared[1])
    coroutine.resume(living)
    assert.is_truthy(shared[1])
  end)

  -- Whether an error says that there is no room on the stack: with_context says so like Lua itself.
  local function is_full(why)
    why = tostring(why)
    return why:find("stack overflow", 1, true) or why:find("too many results to unpack", 1, true)
  end

  it("returns and passes on as many values as the stack holds", function()
    local list = {}
    for index = 1, 5000 do
      list[index] = index
    end
    local unpack = rawget(table, "unpack") or rawget(_G, "unpack")
    local own, default = nb.new_context(), nb.context()
    local function last(...) return select("#", ...), (select(-1, ...)) end
    assert.same({ 5000, 5000 }, { last(nb.with_context(own, function(...) return ... end, unpack(list))) })
    -- More than the stack holds: what was bound before is bound again.
    for _, count in ipairs({ 7990, 999000 }) do
      local ok, why = pcall(nb.with_context, own, function() return unpack({}, 1, count) end)
      assert(ok or is_full(why), why)
      assert.equal(default, nb.context())
    end
  end)

  it("ends for its coroutine wherever the stack overflows", function()
    local unpack = rawget(table, "unpack") or rawget(_G, "unpack")
    local own, default = nb.new_context(), nb.context()
    -- Nearly fills the large stack of Lua 5.2 and later, so that a recursion soon comes to its end.
    local filling = (_VERSION == "Lua 5.1") and 0 or 900000
    -- Each of its steps may go through the whole stack, which takes minutes.
    collectgarbage("stop")
    finally(function() collectgarbage("restart") end)
    local function overflow(results, padding)
      local function fn() return unpack({}, 1, results) end
      local function recurse(...)
        nb.with_context(own, fn)
        return 1 + recurse(...)
      end
      -- Arguments without a name stay on the stack, but not for a tail call.
      local function fill(...) -- luacheck: no unused args
        return 1 + recurse(unpack({}, 1, padding))
      end
      local ok, why = pcall(fill, unpack({}, 1, filling))
      assert(not ok and is_full(why), why)
      assert(nb.context() == default, "the context is that of a call that has ended")
    end
    local function all()
      for results = 12, 30, 9 do
        for padding = 0, 4 do
          overflow(results, padding)
        end
      end
    end
    all()
    coroutine.wrap(all)()
  end)

  it("raises errors of the function with the positions that they have without it", function()
    local own = nb.new_context()
    local function fail() error("level 2", 2) end
    local _, expected = pcall(fail)
    local function check()
      local _, why = pcall(nb.with_context, own, fail)
      assert.equal(expected, why)
      _, why = pcall(nb.with_context, own, nb.select_backend_server, "::1", 70000)
      assert.equal(select(2, pcall(nb.select_backend_server, "::1", 70000)), why)
    end
    check()
    coroutine.wrap(check)()
  end)

  it("also counts for coroutines that its function runs", function()
    local own = nb.new_context()
    -- From the main thread: busted runs the specs there.
    nb.with_context(own, function()
      coroutine.wrap(function() nb.select_backend_server("::4", 4) end)()
    end)
    assert.equal("::4", (own:selected()))
  end)

  it("refuses what is no context or no function", function()
    misuse(function() nb.with_context({}, print) end,
      "bad argument #1 to 'with_context' (request context expected, got table)")
    misuse(function() nb.with_context(class.new(), print) end, "(request context expected, got userdata)")
    misuse(function() nb.with_context(nb.new_context(), "print") end,
      "bad argument #2 to 'with_context' (function expected, got string)")
    misuse(function() nb.with_context() end, "bad argument #1 to 'with_context' (request context expected, got nil)")
  end)
end)
