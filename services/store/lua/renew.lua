-- job, attempt, lease (milliseconds)
local id, attempt = arg.job, arg.attempt
local state = field(id, 'state')
if not holds(id, attempt) then
  redis.call('HINCRBY', 'tl:run:counters', 'fenced', 1)
  return fenced(id, attempt)
end
redis.call('SET', key('lease', id), attempt, 'PX', arg.lease)
return {'ok', control_of(state, field(id, 'preempt'))}
