-- job, attempt, reason, message, error (or ''), idle_limit, stalled_limit: the attempt ends, the job goes on
local id, attempt = arg.job, arg.attempt
if not holds(id, attempt) then
  redis.call('HINCRBY', 'tl:run:counters', 'fenced', 1)
  return fenced(id, attempt)
end
-- Leaving for others, and halving the calls after an out-of-memory (it ends at one row), say nothing against the job.
local counted = arg.reason ~= 'preempted' and arg.reason ~= 'moved' and arg.reason ~= 'out_of_memory'
local host, to = field(id, 'host'), field(id, 'move_to')
if arg.reason == 'moved' and to ~= '' then set(id, 'host', to == '*' and '' or to, 'avoid', host, 'last_host', host) end
local answer = end_attempt(id, arg.reason, arg.message, arg.error, counted, arg.idle_limit, arg.stalled_limit)
if answer then return answer end
return {'ok'}
