--- Runs before the specs: they test the module in build/, built for this interpreter, and no
-- copy that may be installed somewhere.

local lfs = require("lfs")

local abi = jit and "luajit" or "lua" .. _VERSION:match("%d%.%d")
local built = lfs.currentdir() .. "/build/" .. abi .. "/nauthilus_backend.so"

if not io.open(built) then
  io.stderr:write(built, " is missing: run `make LUA=", (abi:gsub("^lua(%d)", "%1")), "`\n")
  os.exit(1)
end
package.cpath = built:gsub("nauthilus_backend%.so$", "?.so") .. ";" .. package.cpath

-- Collect as often as possible: what is freed too early shows sooner.
require("spec.support.collector").set("pause", 50)

package.loaded["spec.support.built"] = { path = built, abi = abi }
