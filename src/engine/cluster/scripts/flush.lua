-- One step of releasing the bindings of a node, or those that differ from rendezvous hashing.
--
--   ARGV[2]  the cursor of SCAN, ARGV[3] the pattern of the users' keys, ARGV[4] how many keys to read
--   ARGV[5]  the node, or empty: every user whose node is not the one that hashing gave at the last login
--   ARGV[6]  how many bindings to release at most
--   ARGV[7]  reason, ARGV[8] by whom, ARGV[9] retention
--
-- Pinned users stay. Returns the cursor for the next step, which is the same again where the limit was
-- reached, and how many were released; the cursor 0 ends it.

local node, limit, retention = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[9])
local found = redis.call('SCAN', ARGV[2], 'MATCH', ARGV[3], 'COUNT', ARGV[4])
local released = 0
for _, key in ipairs(found[2]) do
  local record = read(key)
  drop_if_over(record)
  local is_wanted
  if node ~= '' then
    is_wanted = record.node == node
  else
    is_wanted = record.node ~= '' and record.home ~= '' and record.home ~= record.node
  end
  if is_wanted and not record.keep then
    if released >= limit then
      return { 'flushed', ARGV[2], digits(released), '1', digits(now_us) }
    end
    local left = record.node
    keep_home(record)
    record.node, record.from, record.since = '', left, now
    record['until'] = now + retention
    record.reason, record.by = ARGV[7], ARGV[8]
    record.generation = next_generation(record.generation)
    write(key, record)
    count_out(left, key)
    released = released + 1
  end
end
return { 'flushed', found[1], digits(released), found[1] == '0' and '0' or '1', digits(now_us) }
