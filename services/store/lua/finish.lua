-- job, attempt, state, error (or ''), adapter_uri (or ''), adapter_sha256: the attempt and the job end
local id, attempt, to, error = arg.job, arg.attempt, arg.state, arg.error
local state = field(id, 'state')
if field(id, 'attempt') == tostring(attempt) and field(id, 'finished_attempt') == tostring(attempt) then return {'ok'} end
if not holds(id, attempt) then
  redis.call('HINCRBY', 'tl:run:counters', 'fenced', 1)
  return fenced(id, attempt)
end
if state == 'cancelling' then to = 'cancelled' elseif state == 'pausing' then to = 'paused' end
if not EDGES[state][to] then return go(id, to) end
set(id, 'finished_attempt', attempt)
if arg.adapter_uri ~= '' then set(id, 'adapter_uri', arg.adapter_uri, 'adapter_sha256', arg.adapter_sha256) end
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
