-- An operator unbinds one user, KEYS[4]. The record stays, without a node: it says which node the user comes from, and
-- no machine writes the binding back that it remembers.
--
--   ARGV[2]  reason, ARGV[3] by whom, ARGV[4] retention
--   ARGV[5…] the record that the machine remembers

local key = KEYS[4]
local record = read_or_remembered(key, 5)
drop_if_over(record)
local left = record.node
-- Without the name of the node, the record says already that the user comes from one.
local is_bound = left ~= '' or record.lacks_node
keep_home(record)
record.node, record.since, record.keep = '', now, false
if left ~= '' then
  record.from = left
end
record['until'] = now + tonumber(ARGV[4])
record.reason, record.by = ARGV[2], ARGV[3]
record.generation = next_generation(record.generation)
write(key, record)
count_out(left, key)
return answer(is_bound and 'forgotten' or 'not bound', record, is_bound)
