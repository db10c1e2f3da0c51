-- An operator binds one user, KEYS[4], to a node.
--
--   ARGV[2]  the node, ARGV[3] '1': the binding has no end, and no login moves the user
--   ARGV[4]  reason, ARGV[5] by whom, ARGV[6] retention
--   ARGV[7…] the record that the machine remembers

local key, node, retention = KEYS[4], ARGV[2], tonumber(ARGV[6])
local record = read_or_remembered(key, 7)
drop_if_over(record)
local left = record.node
keep_home(record)
if left ~= node then
  -- A released user comes from the node that was released.
  local from = left ~= '' and left or record.from
  record.from = from ~= node and from or ''
  record.node, record.since = node, now
end
local has_moved = left ~= node and record.from ~= ''
record.keep = ARGV[3] == '1'
record.reason, record.by = ARGV[4], ARGV[5]
record['until'] = now + retention
record.generation = next_generation(record.generation)
write(key, record)
if left ~= node then
  count_out(left, key)
end
count_in(node, key, record['until'])
if has_moved then
  redis.call('HINCRBY', STORE, 'out:' .. record.from, 1)
  redis.call('HINCRBY', STORE, 'in:' .. node, 1)
end
return answer(has_moved and 'moved' or 'bound', record, has_moved)
