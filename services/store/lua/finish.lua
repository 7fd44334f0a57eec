-- id, attempt, state, error or '', adapter uri, adapter sha256: the attempt and the job end
local id, attempt, to, error = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local state = field(id, 'state')
if field(id, 'attempt') == attempt and field(id, 'finished_attempt') == attempt then return {'ok'} end
if not HELD[state] or field(id, 'attempt') ~= attempt then
  redis.call('HINCRBY', 'tl:run:counters', 'fenced', 1)
  return refused('FENCED', 'attempt ' .. attempt .. ' no longer holds job ' .. id)
end
if state == 'cancelling' then to = 'cancelled' elseif state == 'pausing' then to = 'paused' end
if not EDGES[state][to] then return go(id, to) end
set(id, 'finished_attempt', attempt)
if ARGV[5] ~= '' then set(id, 'adapter_uri', ARGV[5], 'adapter_sha256', ARGV[6]) end
local message = 'The job is ' .. string.upper(to) .. ' after step ' .. field(id, 'step') .. '.'
if error ~= '' then
  set(id, 'error', error)
  message = cjson.decode(error).message
end
say(id, error ~= '' and 'error' or 'info', 'JOB_' .. string.upper(to), message, attempt)
local answer = go(id, to)
if answer then return answer end
if to == 'paused' and field(id, 'cancel_wanted') ~= '' then go(id, 'cancelled') end
return {'ok'}
