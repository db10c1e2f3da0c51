-- A login of one user, KEYS[4]: finds the user's node, and binds, renews or moves.
--
--   ARGV[2]   'login', or 'explain': the same answer, but nothing is written
--   ARGV[3]   the machine's name; empty: the caller is the command, which has no verdicts for a quorum
--   ARGV[4]   retention, ARGV[5] move_delay, ARGV[6] min_stay
--   ARGV[7]   node_failover: 'move' or 'refuse'
--   ARGV[8]   verdicts: 'own' or 'quorum'
--   ARGV[9]   the node for a new binding, or empty, and ARGV[10] why there is none
--   ARGV[11]  the node that rendezvous hashing gives the user while all nodes are usable
--   ARGV[12]  the nodes that the machine knows. Each is a line feed, the name, a tab, and:
--             u usable, d not; m a target matches the filter, n none does, x not in the filter's pools;
--             when the drain of the node ends its users' bindings, 0: it is not draining; and where the node is not
--             usable and machines vote, each after a space: the kinds of its targets that match the filter
--   ARGV[13…] the record that the machine remembers, as read_or_remembered reads it

local key = KEYS[4]
local is_dry = ARGV[2] == 'explain'
local machine, retention, move_delay, min_stay = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local failover, verdicts, choice, no_choice, home = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local nodes = ARGV[12]

local record, is_refilled = read_or_remembered(key, 13, nodes)

-- Ends the script without changing the binding. Writes the remembered record if the store had lost it.
local function as_it_is(outcome)
  if is_refilled and not is_dry then
    note_generation(math.max(record.generation, last_generation()))
    write(key, record)
    if record.node ~= '' then
      count_in(record.node, key, record.keep and now + retention or record['until'])
    end
  end
  return answer(outcome, record)
end

local function bind(reason, by)
  local left = record.node
  local from = left ~= '' and left or record.from
  if from == choice then
    from = ''
  end
  record.node, record.from, record.since = choice, from, now
  record['until'], record.home = now + retention, home
  record.reason, record.by = reason, by
  if is_dry then
    record.generation = math.max(record.generation + 1, now_us)
  else
    record.generation = next_generation(record.generation)
    write(key, record)
    count_out(left, key)
    count_in(choice, key, record['until'])
    if from ~= '' then
      redis.call('HINCRBY', STORE, 'out:' .. from, 1)
      redis.call('HINCRBY', STORE, 'in:' .. choice, 1)
    end
  end
  if from == '' then
    return answer('new', record)
  end
  return answer(move_delay > 0 and 'moving' or 'moved', record, true)
end

-- The rest of the node's line in such a text; nil where the node has none.
local function line_of(node, text)
  local _, last = string.find(text, '\n' .. node .. '\t', 1, true)
  return last and string.match(text, '^[^\n]*', last + 1)
end

-- Whether machines that live may not have registered again yet: the store was empty or out of reach less than 10 s
-- ago, or even the calling machine is missing.
local function may_be_incomplete()
  local born = tonumber(redis.call('HGET', STORE, 'born'))
  if not born or now < born + 10000 then
    return true
  end
  return machine ~= '' and (tonumber(redis.call('ZSCORE', MACHINES, machine)) or 0) <= now
end

local function is_known_elsewhere(node)
  for _, nodes_there in pairs(living_machines('nodes')) do
    if line_of(node, nodes_there) then
      return true
    end
  end
  return may_be_incomplete()
end

-- Whether a machine that registers such texts finds the node usable for a login of one of these kinds: 'u' or 'd';
-- nil: it has no such target.
local function verdict_of(nodes_there, logins, node, kinds)
  if logins == '' or kinds == '' then
    -- What all targets of the node make of it together: a machine with an older version says no more.
    local state = line_of(node, nodes_there)
    return state and string.sub(state, 1, 1)
  end
  local letters = {}
  for kind, letter in string.gmatch(line_of(node, logins) or '', '(%S+)=(%a)') do
    letters[kind] = letter
  end
  local verdict
  for kind in string.gmatch(kinds, '%S+') do
    if letters[kind] == 'u' then
      return 'u'
    end
    verdict = letters[kind] or verdict
  end
  return verdict
end

-- Whether more than half of the living machines that can tell find the node unusable for a login of one of these
-- kinds. The calling machine finds it unusable: this is only called for such nodes.
local function is_given_up(node, kinds)
  if may_be_incomplete() then
    return false
  end
  local all, against = 0, 0
  local logins = living_machines('logins')
  for name, nodes_there in pairs(living_machines('nodes')) do
    local verdict = name == machine and 'd' or verdict_of(nodes_there, logins[name], node, kinds)
    if verdict then
      all = all + 1
    end
    if verdict == 'd' then
      against = against + 1
    end
  end
  return against * 2 > all
end

drop_if_over(record)
if record.lacks_node then
  -- The store has lost the record. Nothing is written as long as a machine may come that has the node, and so its name.
  local outcome = record.held > now and 'held' or choice == '' and no_choice
  if not outcome and (record['until'] >= NEVER or may_be_incomplete()) then
    outcome = 'unknown node'
  end
  if not outcome then
    return bind('unknown node', machine)
  end
  local reply = answer(outcome, record)
  -- Generation 0: the machine goes on remembering what it does.
  reply[3], reply[9] = NAMELESS, '0'
  return reply
end
if record.held > now then
  return as_it_is('held')
end
if record.node == '' then
  if choice == '' then
    return as_it_is(no_choice)
  end
  -- A released user who comes back to the same node has not moved.
  if record.from ~= '' and record.from ~= choice then
    return bind(record.reason, record.by)
  end
  return bind('login', machine)
end

local has_moved = record.from ~= ''
if has_moved and record.since > now then
  -- Redis's clock was set back, or another server with another clock has taken over. Nobody knows how long ago the
  -- user was moved: as if just now, so that move_delay and min_stay end without waiting for the clock.
  record.since = now
  if not is_dry and not is_refilled then
    write_if_room('HSET', key, 'since', digits(now))
  end
end
if has_moved and now < record.since + move_delay then
  return as_it_is('moving')
end
local is_settling = has_moved and now < record.since + min_stay

local why
local usable, scope, drain_end, kinds
local state = line_of(record.node, nodes)
if state then
  usable, scope, drain_end, kinds = string.match(state, '^(%a)(%a)(%d+)(.*)$')
  drain_end = tonumber(drain_end)
end
if not state then
  if record.keep or is_known_elsewhere(record.node) then
    return as_it_is('unknown node')
  elseif is_settling then
    return as_it_is('unstable')
  end
  why = 'unknown node'
elseif scope == 'n' then
  return as_it_is('no such protocol')
elseif usable == 'd' and (verdicts == 'own' or is_given_up(record.node, kinds)) then
  if record.keep then
    return as_it_is('pinned to')
  elseif is_settling then
    return as_it_is('unstable')
  elseif failover == 'refuse' then
    return as_it_is('unusable')
  end
  why = 'unusable'
elseif record.keep then
  if not is_dry then
    count_in(record.node, key, now + retention)
  end
  return as_it_is('pinned')
elseif scope == 'x' then
  if is_settling then
    return as_it_is('unstable')
  end
  why = 'another pool'
elseif drain_end > 0 and drain_end <= now and not is_settling then
  why = 'drain'
end

if why and choice == '' then
  return as_it_is(no_choice)
elseif why and choice ~= record.node then
  return bind(why, machine)
end

if drain_end and drain_end > 0 then
  local reply = as_it_is('bound')
  reply[12] = digits(math.min(record['until'], math.max(drain_end, now)))
  return reply
end
if is_dry then
  return answer('bound', record)
end
local stored_until = record['until']
record['until'], record.home = now + retention, home
if is_refilled then
  return as_it_is('bound')
end
if not write_if_room('HSET', key, 'until', digits(record['until'])) then
  -- The binding is still valid.
  record['until'] = stored_until
  return answer('bound', record)
end
write_home(key, record)
set_end(key, record)
count_in(record.node, key, record['until'])
return answer('bound', record)
