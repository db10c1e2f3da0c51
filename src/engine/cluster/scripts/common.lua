-- Functions that all scripts share. Redis runs a script as one step: no other command runs in between.
--
-- All keys of a script have one hash tag, so that they are on one server of a Redis Cluster:
--   KEYS[1]   hash: generation, born (when the store was last empty or out of reach), and per node level, in, out
--   KEYS[2]   sorted set: the machines, by the time at which their registration ends; a hash for
--             each of them has this name, a colon and the machine's name
--   KEYS[3]   the beginning of the keys of the nodes' users: a colon and the node's name follow
--   KEYS[4…]  the users' hashes; a user's key ends with the digest of the user's name
--
-- Times are milliseconds of Redis's clock since 1970, generations are its microseconds or more.

local STORE, MACHINES, USERS = KEYS[1], KEYS[2], KEYS[3]

local time = redis.call('TIME')
local now_us = tonumber(time[1]) * 1000000 + tonumber(time[2])
local now = math.floor(now_us / 1000)

-- The end of what has none: later than every time, and the largest number that Lua writes exactly.
local NEVER = 2 ^ 53 - 1

-- A number as decimal digits: tostring writes 1.7e+15.
local function digits(number)
  return string.format('%.0f', number)
end

-- The user's record. No record reads as one without a node and with generation 0.
local function read(key)
  local field = redis.call('HMGET', key, 'node', 'since', 'until', 'from', 'reason', 'by', 'generation',
    'keep', 'held', 'home', 'remains')
  local record = {
    node = field[1] or '',
    since = tonumber(field[2]) or 0,
    ['until'] = tonumber(field[3]) or 0,
    from = field[4] or '',
    reason = field[5] or '',
    by = field[6] or '',
    generation = tonumber(field[7]) or 0,
    keep = field[8] == '1',
    held = tonumber(field[9]) or 0,
    -- Empty: it is the node.
    home = field[10] or '',
    has_home = field[10] and true,
    has_remains = field[11] and true,
  }
  -- Until when some machine may remember this record, or one that it has replaced, as one that has not ended. What
  -- replaces it stays in the store for as long: without it that machine would take its own record for one that the
  -- store has lost, and would undo what was decided later.
  record.remains = math.max(record.keep and NEVER or record['until'], record.held, tonumber(field[11]) or 0)
  return record
end

-- The machines whose registration has not ended: such a field of each registration, a text with the state of each of
-- the machine's nodes.
local function living_machines(field)
  local machines = {}
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', MACHINES, '(' .. digits(now), '+inf')) do
    machines[name] = redis.call('HGET', MACHINES .. ':' .. name, field) or ''
  end
  return machines
end

-- What stands for a node of which no living machine knows the name.
local NAMELESS = '?'

-- What a machine remembers of a node that it does not have: after a tab 64 bits of the SHA-1 of the node's name.
local NAMELESS_NODE = '^\t(%x+)$'

-- The name of a node that a machine remembers; where it has none, it is in the registration of a machine that has the
-- node, or nil. `own` are the nodes of the machine that remembers, none of which it can be. All machines have nearly
-- the same nodes, so few digests are computed: one of each name that the machine does not have.
local function name_of(text, own)
  local digest = string.match(text, NAMELESS_NODE)
  if not digest then
    return text
  end
  local is_seen = {}
  for name in string.gmatch(own, '\n([^\t]*)\t') do
    is_seen[name] = true
  end
  for _, nodes in pairs(living_machines('nodes')) do
    -- Most machines register the same text. No name is like it, since it has line feeds.
    if not is_seen[nodes] then
      is_seen[nodes] = true
      for name in string.gmatch(nodes, '\n([^\t]*)\t') do
        if not is_seen[name] then
          is_seen[name] = true
          if string.sub(redis.sha1hex(name), 1, 16) == digest then
            return name
          end
        end
      end
    end
  end
end

-- Returns the record of the key; or the record that the machine remembers, if that is newer: then the store
-- has lost its data, or has been restored from an older copy. ARGV has the remembered record from `first` on:
-- generation, node, since, until (0: it is kept without end), from, held, remains. `nodes` are the machine's, as
-- name_of takes them, or nil. The second result is true if the remembered record has to be written. If the name of its
-- node is unknown, it reads as the record of a user who was released from that node, with `lacks_node` set.
local function read_or_remembered(key, first, nodes)
  local stored = read(key)
  local generation = tonumber(ARGV[first]) or 0
  if generation <= stored.generation then
    return stored, false
  end
  local node, from = name_of(ARGV[first + 1], nodes or ''), ARGV[first + 4]
  local remembered = {
    replaces = stored.node,
    generation = generation,
    node = node or '',
    since = tonumber(ARGV[first + 2]) or 0,
    ['until'] = tonumber(ARGV[first + 3]) or 0,
    -- Its name is only shown. What counts is that there is one, so the registrations are not searched for it.
    from = node and not string.match(from, NAMELESS_NODE) and from or NAMELESS,
    lacks_node = not node,
    held = tonumber(ARGV[first + 5]) or 0,
    keep = ARGV[first + 1] ~= '' and ARGV[first + 3] == '0',
    reason = 'remembered',
    by = '',
    home = stored.home,
    has_home = stored.has_home,
    has_remains = stored.has_remains,
  }
  local remains = math.max(remembered.keep and NEVER or remembered['until'], remembered.held,
    tonumber(ARGV[first + 6]) or 0)
  if remains <= now then
    -- It has ended, and so has every record that it replaced. The next generation has to be above it nevertheless.
    stored.generation = generation
    return stored, false
  end
  remembered.remains = math.max(remains, stored.remains)
  if remembered.keep and not node then
    remembered.keep, remembered['until'] = false, NEVER
  end
  return remembered, true
end

-- Runs a command that writes. Returns false if Redis has no memory for it; any other error ends the script.
local function write_if_room(...)
  local reply = redis.pcall(...)
  if type(reply) ~= 'table' or not reply.err then
    return true
  elseif string.find(reply.err, 'OOM', 1, true) then
    return false
  end
  error(reply.err)
end

-- Ignores a binding whose `until` has passed: Redis may remove the key later.
local function drop_if_over(record)
  if not record.keep and record['until'] <= now then
    record.node, record.from, record.lacks_node = '', '', false
  end
end

local function note_generation(generation)
  redis.call('HSET', STORE, 'generation', digits(generation))
  redis.call('HSETNX', STORE, 'born', digits(now))
end

local function last_generation()
  return tonumber(redis.call('HGET', STORE, 'generation')) or 0
end

-- A generation above every one before it, also where the clock went back or the store lost its data.
local function next_generation(previous)
  local generation = math.max(previous + 1, last_generation() + 1, now_us)
  note_generation(generation)
  return generation
end

-- How many users a node has is estimated from a sample, so that its memory is bounded: the users whose
-- digest is a multiple of 2^level. The level rises by one whenever the sample has become too large.
local SAMPLE = 4096

local function is_in_sample(member, level)
  return tonumber(string.sub(member, 1, 8), 16) % 2 ^ level == 0
end

local function member_of(key)
  return string.sub(string.match(key, '[^:]*$'), 1, 16)
end

local function count_in(node, key, ends)
  local member = member_of(key)
  local level = tonumber(redis.call('HGET', STORE, 'level:' .. node)) or 0
  if not is_in_sample(member, level) then
    return
  end
  local sample = USERS .. ':' .. node
  -- An error is ignored: Redis may have no memory left, and a wrong estimate is better than a failed login.
  local added = redis.pcall('ZADD', sample, digits(ends), member)
  if type(added) ~= 'number' then
    return
  end
  redis.call('PEXPIREAT', sample, digits(ends))
  if added == 1 and redis.call('ZCARD', sample) > SAMPLE then
    level = level + 1
    for _, one in ipairs(redis.call('ZRANGE', sample, 0, -1)) do
      if not is_in_sample(one, level) then
        redis.call('ZREM', sample, one)
      end
    end
    redis.call('HSET', STORE, 'level:' .. node, digits(level))
  end
end

local function count_out(node, key)
  if node ~= '' then
    redis.call('ZREM', USERS .. ':' .. node, member_of(key))
  end
end

-- Notes where hashing puts a user whom an operator takes away from a node. Only a login tells the store; if the record
-- does not say, it is this node.
local function keep_home(record)
  if not record.has_home then
    record.home = record.node
  end
end

-- Writes the node that hashing gives the user, but only if it is not the node that the user is bound to: this
-- keeps most records short.
local function write_home(key, record)
  if record.home ~= '' and record.home ~= record.node then
    redis.call('HSET', key, 'home', record.home)
  elseif record.has_home then
    redis.call('HDEL', key, 'home')
  end
end

-- Sets when Redis removes the record: at its end, or later if a machine may remember one that it has replaced.
local function set_end(key, record)
  local ends = record.keep and NEVER or math.max(record['until'], record.held)
  if record.remains > ends then
    redis.call('HSET', key, 'remains', digits(record.remains))
    ends = record.remains
  elseif record.has_remains then
    redis.call('HDEL', key, 'remains')
  end
  if ends >= NEVER then
    redis.call('PERSIST', key)
  else
    redis.call('PEXPIREAT', key, digits(ends))
  end
end

local function write(key, record)
  if record.replaces and record.replaces ~= record.node then
    count_out(record.replaces, key)
  end
  redis.call('HSET', key, 'node', record.node, 'since', digits(record.since),
    'until', record.keep and '' or digits(record['until']), 'from', record.from, 'reason', record.reason,
    'by', record.by, 'generation', digits(record.generation))
  if record.keep then
    redis.call('HSET', key, 'keep', '1')
  else
    redis.call('HDEL', key, 'keep')
  end
  if record.held > now then
    redis.call('HSET', key, 'held', digits(record.held))
  else
    redis.call('HDEL', key, 'held', 'held_reason', 'held_by')
  end
  write_home(key, record)
  set_end(key, record)
end

-- The answer of every script about one user. The last time but one is when the binding ends as things are; a script
-- that knows of an earlier end replaces it.
local function answer(outcome, record, has_moved)
  local ends = record.keep and '0' or digits(record['until'])
  return {
    outcome, has_moved and '1' or '0', record.node, digits(record.since), ends, record.from, record.reason, record.by,
    digits(record.generation), digits(record.held), digits(record.remains), ends, digits(now_us),
  }
end

-- ARGV[1] is the deadline. After it the machine has answered the login without the store, so this script must
-- not change the binding.
if tonumber(ARGV[1]) < now then
  return { 'late', digits(now_us) }
end
