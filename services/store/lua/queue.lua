-- id, host, planned steps, cut report: VALIDATING -> QUEUED
local id = ARGV[1]
local state = field(id, 'state')
if state ~= 'validating' and state ~= '' then
  return refused('ILLEGAL_EDGE', 'job ' .. id .. ' is ' .. string.upper(state) .. ', only a VALIDATING job is queued so')
end
if state == 'validating' then set(id, 'host', ARGV[2], 'planned_steps', ARGV[3], 'cut', ARGV[4]) end
local answer = go(id, 'queued')
if answer then return answer end
say(id, 'info', 'JOB_QUEUED', 'Queued for host ' .. ARGV[2] .. '.', 0, {host = ARGV[2]})
return {'ok'}
