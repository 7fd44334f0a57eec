-- key (of the sweep's standings), step (of the rung), known (standings as they were read, or ''), shall (as they shall be),
-- cells (compared now; of each: job, kept, standing, reason, host): all of them move, or none does
local target, step, known = arg.key, tostring(arg.step), arg.known
if (redis.call('HGET', target, step) or '') ~= known then return {'changed', 'another supervisor compared at step ' .. step} end
for _, cell in ipairs(arg.cells) do
  if field(cell.job, 'state') ~= 'paused' or field(cell.job, 'rung') ~= step then
    return {'changed', 'job ' .. cell.job .. ' no longer waits at step ' .. step}
  end
end
redis.call('HSET', target, step, arg.shall)
for _, cell in ipairs(arg.cells) do
  local id, fields = cell.job, {step = step}
  set(id, 'passed_rung', step, 'standing', cell.standing)
  if cell.kept then
    set(id, 'rung', '', 'host', cell.host, 'error', '')  -- '': the pool; an error that it paused with is over
    go(id, 'queued')
    say(id, 'info', 'RUNG_PASSED', cell.reason, field(id, 'attempt'), fields)
  else
    go(id, 'cancelled')
    say(id, 'info', 'STOPPED_BY_HALVING', cell.reason, field(id, 'attempt'), fields)
  end
end
return {'ok'}
