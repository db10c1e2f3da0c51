-- An engine with one target that answers each line of its input: frozen.lua FOLDER PORT. Writes the
-- verdict, and for each event of a verdict from, to and reason; tabs in between.

package.cpath = arg[1] .. "/?.so"
local nb = require("nauthilus_backend")

nb.configure({
  log = "none",
  connect_interval = 0.1,
  fast_interval = 0.1,
  backend_servers = { { protocol = "imap", host = "127.0.0.1", port = tonumber(arg[2]) } },
})
nb.start()

for _ in io.lines() do
  local out = { nb.status().targets[1].verdict }
  for _, event in ipairs(nb.events()) do
    if event.type == "verdict" then
      out[#out + 1] = event.from
      out[#out + 1] = event.to
      out[#out + 1] = event.reason or ""
    end
  end
  io.write(table.concat(out, "\t"), "\n")
  io.flush()
end
nb.stop()
