-- job, error: VALIDATING -> FAILED
local id = arg.job
local state = field(id, 'state')
if state ~= 'validating' and state ~= '' then
  return refused('ILLEGAL_EDGE', 'job ' .. id .. ' is ' .. string.upper(state) .. ', only a VALIDATING job is rejected')
end
if state ~= '' then
  set(id, 'error', arg.error)
  say(id, 'error', 'JOB_REJECTED', cjson.decode(arg.error).message, 0)
end
local answer = go(id, 'failed')
if answer then return answer end
return {'ok'}
