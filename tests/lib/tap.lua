-- Reports of a suite's checks, as TAP.

local tap = { failures = 0 }

-- Prints one check and, where it failed, the detail.
function tap.check(name, good, detail)
  print((good and "ok - " or "not ok - ") .. name)
  if not good then
    tap.failures = tap.failures + 1
    print("# " .. tostring(detail):gsub("\n", "\n# "))
  end
  io.flush()
end

return tap
