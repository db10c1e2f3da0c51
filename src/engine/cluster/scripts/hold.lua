-- An operator keeps one user, KEYS[4], from every node for some time.
--
--   ARGV[2]  for how long, 0 ends a hold
--   ARGV[3]  reason, ARGV[4] by whom
--   ARGV[5…] the record that the machine remembers

local key = KEYS[4]
local record = read_or_remembered(key, 5)
drop_if_over(record)
if record.lacks_node then
  -- The store has lost the record. One without the node, and with a higher generation, would outdo that of a machine
  -- that remembers the name.
  return answer('unknown node', record)
end
local duration = tonumber(ARGV[2])
-- Also the record of a user without binding and hold: its generation is that of this call.
record.remains = math.max(record.remains, now + 1000)
record.held = duration > 0 and now + duration or 0
record.generation = next_generation(record.generation)
write(key, record)
if duration > 0 then
  redis.call('HSET', key, 'held_reason', ARGV[3], 'held_by', ARGV[4])
end
return answer(duration > 0 and 'held' or 'released', record)
