-- id, attempt, reason, message, error or '', limit, far limit: the attempt ends, the job goes on
local id, attempt = ARGV[1], ARGV[2]
if not HELD[field(id, 'state')] or field(id, 'attempt') ~= attempt then
  redis.call('HINCRBY', 'tl:run:counters', 'fenced', 1)
  return refused('FENCED', 'attempt ' .. attempt .. ' no longer holds job ' .. id)
end
-- Leaving for others, and halving the calls after an out-of-memory (it ends at one row), say nothing against the job.
local counted = ARGV[3] ~= 'preempted' and ARGV[3] ~= 'out_of_memory'
local answer = end_attempt(id, ARGV[3], ARGV[4], ARGV[5], counted, tonumber(ARGV[6]), tonumber(ARGV[7]))
if answer then return answer end
return {'ok'}
