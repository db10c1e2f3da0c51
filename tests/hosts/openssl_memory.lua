-- OpenSSL gets no memory in the middle of a handshake: that says nothing of the server's certificate,
-- and ends no host.

local tap = require("tap")
local nb = require("nauthilus_backend")

local tls_port = assert(tonumber(arg[1]), "the port of a TLS listener expected")

local function check()
  return nb.check_backend_connection("127.0.0.1", tls_port, false, true, {
    coalesce = false, connect_timeout = "30s", tls_timeout = "30s",
  })
end

-- One handshake first, so that what is made only once has been made.
local reason = check()
assert(reason == nil, reason)
host.refuse_openssl(0, -1)
assert(check() == nil)
local usual = host.refuse_openssl(0, -1)
tap.check("OpenSSL's allocations are seen", usual > 50, usual)

-- Refuses each allocation in turn, then that one and all after it. Of thousands only a part is tried, another
-- one in each run.
local step = math.max(1, math.floor(usual / 150))
local wrong, lacking, good = {}, 0, 0
for _, is_sticky in ipairs({ false, true }) do
  for number = 1 + os.time() % step, usual, step do
    host.refuse_openssl(number, is_sticky and 1000000 or number)
    local told = check()
    host.refuse_openssl(0, -1)
    if told == nil then
      good = good + 1
    -- For some allocations OpenSSL reports no more than "internal error"; the module then tries to allocate
    -- memory itself, which works here.
    elseif told:find("^internal: ") or told:find("^tls: handshake failed: ") then
      lacking = lacking + 1
    else
      wrong[#wrong + 1] = ("allocation %d%s: %s"):format(number, is_sticky and " and all later ones" or "", told)
    end
  end
end
io.write("# ", usual, " allocations a check; ", lacking, " checks lacked memory, ", good, " did without it\n")
tap.check("want of memory is never told as a fault of the certificate", #wrong == 0, table.concat(wrong, "\n"))
tap.check("and was met", lacking > 20, lacking)
tap.check("checks work afterwards", check() == nil)
