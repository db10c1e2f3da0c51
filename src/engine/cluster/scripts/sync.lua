-- Registers a machine with its nodes, and exchanges operators' settings with the other machines. Runs every
-- few seconds, and before anything else on a new connection.
--
--   ARGV[2]  the machine's name; empty: the caller is the command, which is not registered
--   ARGV[3]  the hash of the settings that all machines have to agree on
--   ARGV[4]  for how long the registration counts
--   ARGV[5]  its nodes: each is a line feed, the name, a tab, u usable or d not, and when the drain of the
--            node ends its users' bindings, 0: it is not draining
--   ARGV[6]  '1': the nodes' numbers of users are wanted
--   ARGV[7]  the highest generation that it knows
--   ARGV[8]  with `verdicts: quorum` what logins find: each of the nodes is a line feed, the name, a tab, and for each
--            kind of its targets a space, the kind, '=', and u: such a login finds the node usable, or d
--   ARGV[9…] what operators set: the name of the setting, when it was set, and its text
--
-- Of two settings with one name the later one is kept, in the store and on the machine.

local machine, ttl, nodes = ARGV[2], tonumber(ARGV[4]), ARGV[5]
if machine ~= '' then
  -- This command comes first because Redis runs it even without memory, and after it the rest of the script as well:
  -- machines stay registered, and operators' settings are exchanged.
  redis.call('ZREMRANGEBYSCORE', MACHINES, '-inf', digits(now))
  -- Every machine registers each 3 s. If none has done so for 5 s, Redis was out of reach, or its clock was set: the
  -- registrations of machines that live may have ended, or those of machines that do not may go on for too long.
  local last = tonumber(redis.call('ZRANGE', MACHINES, -1, -1, 'WITHSCORES')[2])
  if not last or math.abs(last - ttl - now) > 5000 then
    redis.call('ZREMRANGEBYSCORE', MACHINES, '(' .. digits(now + ttl), '+inf')
    redis.call('HSET', STORE, 'born', digits(now))
  end
  note_generation(math.max(last_generation(), tonumber(ARGV[7]) or 0))
  redis.call('ZADD', MACHINES, digits(now + ttl), machine)
  redis.call('PEXPIRE', MACHINES, digits(ttl))
  local registration = MACHINES .. ':' .. machine
  redis.call('HSET', registration, 'hash', ARGV[3], 'nodes', nodes, 'logins', ARGV[8])
  redis.call('PEXPIRE', registration, digits(ttl))
end

local machines = {}
for _, name in ipairs(redis.call('ZRANGE', MACHINES, 0, -1)) do
  machines[#machines + 1] = name
  machines[#machines + 1] = redis.call('HGET', MACHINES .. ':' .. name, 'hash') or ''
end

-- Each value of the hash is the time at which it was set, a space, and the text.
local SETTINGS = STORE .. ':settings'
local given = {}
for index = 9, #ARGV, 3 do
  given[ARGV[index]] = { since = tonumber(ARGV[index + 1]), text = ARGV[index + 2] }
end
local settings = {}
local stored = redis.call('HGETALL', SETTINGS)
for index = 1, #stored, 2 do
  local name = stored[index]
  local since, text = string.match(stored[index + 1], '^(%d+) (.*)$')
  since = tonumber(since) or 0
  local mine = given[name]
  if mine and mine.since <= since then
    given[name] = nil
  end
  if since > 0 and not (mine and mine.since >= since) then
    settings[#settings + 1] = name
    settings[#settings + 1] = digits(since)
    settings[#settings + 1] = text
  end
end
for name, setting in pairs(given) do
  redis.call('HSET', SETTINGS, name, digits(setting.since) .. ' ' .. setting.text)
end

local counts = {}
if ARGV[6] == '1' then
  for node, drain_end in string.gmatch(nodes, '\n([^\t]*)\t%a(%d+)') do
    local sample = USERS .. ':' .. node
    drain_end = tonumber(drain_end)
    if drain_end > 0 and drain_end <= now then
      -- All bindings to the node have ended with the drain.
      redis.call('DEL', sample)
    else
      redis.call('ZREMRANGEBYSCORE', sample, '-inf', digits(now))
    end
    local size = redis.call('ZCARD', sample)
    local field = redis.call('HMGET', STORE, 'level:' .. node, 'in:' .. node, 'out:' .. node)
    if size == 0 and field[1] then
      redis.call('HDEL', STORE, 'level:' .. node)
    end
    counts[#counts + 1] = node
    counts[#counts + 1] = digits(size * 2 ^ (tonumber(field[1]) or 0))
    counts[#counts + 1] = field[2] or '0'
    counts[#counts + 1] = field[3] or '0'
  end
end

local born = tonumber(redis.call('HGET', STORE, 'born')) or now
return { 'synced', digits(now_us), digits(last_generation()), digits(born), machines, settings, counts }
