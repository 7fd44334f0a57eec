-- job, host ('' for the pool), planned_steps, cut (report): VALIDATING -> QUEUED
local id = arg.job
local state = field(id, 'state')
if state ~= 'validating' and state ~= '' then
  return refused('ILLEGAL_EDGE', 'job ' .. id .. ' is ' .. string.upper(state) .. ', only a VALIDATING job is queued so')
end
if state == 'validating' then set(id, 'host', arg.host, 'planned_steps', arg.planned_steps, 'cut', arg.cut) end
local answer = go(id, 'queued')
if answer then return answer end
local message = arg.host ~= '' and 'Queued for host ' .. arg.host .. '.' or 'Waits for a host with a free worker.'
say(id, 'info', 'JOB_QUEUED', message, 0, {host = arg.host})
return {'ok'}
