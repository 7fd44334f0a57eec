-- key of the sweep's standings, step of the rung, standings as they were read or '', standings as they shall be, then
-- for each cell compared now: id, 'on' or 'stop', its standing, its reason, host: all of them move, or none does
local target, step, known, shall = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if (redis.call('HGET', target, step) or '') ~= known then return {'changed', 'another supervisor compared at step ' .. step} end
for index = 5, #ARGV, 5 do
  local id = ARGV[index]
  if field(id, 'state') ~= 'paused' or field(id, 'rung') ~= step then
    return {'changed', 'job ' .. id .. ' no longer waits at step ' .. step}
  end
end
redis.call('HSET', target, step, shall)
for index = 5, #ARGV, 5 do
  local id, act, standing, reason, host = unpack(ARGV, index, index + 4)
  set(id, 'passed_rung', step, 'standing', standing)
  local fields = {step = step}
  if act == 'on' then
    set(id, 'rung', '', 'host', host)
    go(id, 'queued')
    say(id, 'info', 'RUNG_PASSED', reason, field(id, 'attempt'), fields)
  else
    go(id, 'cancelled')
    say(id, 'info', 'STOPPED_BY_HALVING', reason, field(id, 'attempt'), fields)
  end
end
return {'ok'}
