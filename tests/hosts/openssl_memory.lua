-- OpenSSL gets no memory in the middle of a handshake: that says nothing of the server's certificate,
-- and ends no host.

local tap = require("tap")
local nb = require("nauthilus_backend")

local tls_port = assert(tonumber(arg[1]), "the port of a TLS listener expected")

local function check(name)
  return nb.check_backend_connection("127.0.0.1", tls_port, false, true, {
    coalesce = false, connect_timeout = "30s", tls_timeout = "30s", tls_server_name = name,
  })
end

-- A name of the certificate, written in another way each time: for a name that it has not met yet OpenSSL verifies
-- the chain, which is known for others. There are 511 such spellings; at most 399 are used.
local spellings = 0
local function new_name()
  spellings = spellings + 1
  local letter = 0
  return (("localhost"):gsub("%a", function(small)
    local is_upper = math.floor(spellings / 2 ^ letter) % 2 == 1
    letter = letter + 1
    return is_upper and small:upper() or small
  end))
end

local function known_name()
  return "localhost"
end

-- One handshake first, so that what is made only once has been made.
local reason = check("localhost")
assert(reason == nil, reason)

-- Refuses each allocation in turn, then that one and all after it. With an unknown chain only a part of the
-- thousands is tried, another one in each run, since each check needs a new spelling.
local usually = {}
for kind, name in pairs({ known = known_name, unknown = new_name }) do
  host.refuse_openssl(0, -1)
  assert(check(name()) == nil)
  local usual = host.refuse_openssl(0, -1)
  usually[kind] = usual
  tap.check("OpenSSL's allocations are seen, chain " .. kind, usual > 50, usual)
  local step = kind == "known" and 1 or math.max(1, math.floor(usual / 100))
  local wrong, lacking, good = {}, 0, 0
  for _, is_sticky in ipairs({ false, true }) do
    for number = 1 + os.time() % step, usual, step do
      host.refuse_openssl(number, is_sticky and 1000000 or number)
      local told = check(name())
      host.refuse_openssl(0, -1)
      if told == nil then
        good = good + 1
      -- For some allocations OpenSSL reports no more than "internal error" or the like; the module then tries to
      -- allocate memory itself, which works here. "decode error" is not accepted: the key in a certificate could
      -- not be read, and the chain was taken for known all the same.
      elseif told:find("^internal: ") or told:find("^tls: handshake failed: ") and not told:find("decode error") then
        lacking = lacking + 1
      else
        wrong[#wrong + 1] = ("allocation %d%s: %s"):format(number, is_sticky and " and all later ones" or "", told)
      end
    end
  end
  io.write("# chain ", kind, ": ", usual, " allocations a check; ", lacking, " checks lacked memory, ", good,
    " did without it\n")
  tap.check("want of memory is never told as a fault of the certificate, chain " .. kind, #wrong == 0,
    table.concat(wrong, "\n"))
  tap.check("and was met, chain " .. kind, lacking > 20, lacking)
end
tap.check("a known chain takes less", usually.known < usually.unknown, usually.known .. " and " .. usually.unknown)
tap.check("checks work afterwards", check("localhost") == nil)
