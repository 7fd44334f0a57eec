-- id, attempt, milliseconds of the lease
local id, attempt = ARGV[1], ARGV[2]
local state = field(id, 'state')
if not HELD[state] or field(id, 'attempt') ~= attempt then
  redis.call('HINCRBY', 'tl:run:counters', 'fenced', 1)
  return refused('FENCED', 'attempt ' .. attempt .. ' no longer holds job ' .. id)
end
redis.call('SET', key('lease', id), attempt, 'PX', ARGV[3])
return {'ok', control_of(state, field(id, 'preempt'))}
