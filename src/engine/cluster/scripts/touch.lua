-- The host reports live sessions of the users KEYS[4…] on one node: renews the bindings to it.
--
--   ARGV[2]  the node, ARGV[3] retention
--   ARGV[4]  '1': the node is draining, so nothing is renewed

local node, ends = ARGV[2], now + tonumber(ARGV[3])
local count = 0
for index = 4, #KEYS do
  local key = KEYS[index]
  local record = read(key)
  drop_if_over(record)
  if record.node == node then
    count = count + 1
    if ARGV[4] ~= '1' then
      if not record.keep and record['until'] < ends then
        redis.call('HSET', key, 'until', digits(ends))
        record['until'] = ends
        set_end(key, record)
      end
      count_in(node, key, ends)
    end
  end
end
return { 'touched', digits(count), digits(now_us) }
