-- id, error: VALIDATING -> FAILED
local id = ARGV[1]
local state = field(id, 'state')
if state ~= 'validating' and state ~= '' then
  return refused('ILLEGAL_EDGE', 'job ' .. id .. ' is ' .. string.upper(state) .. ', only a VALIDATING job is rejected')
end
if state ~= '' then
  set(id, 'error', ARGV[2])
  say(id, 'error', 'JOB_REJECTED', cjson.decode(ARGV[2]).message, 0)
end
local answer = go(id, 'failed')
if answer then return answer end
return {'ok'}
