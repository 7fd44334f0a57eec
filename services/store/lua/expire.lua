-- job, lost (error of a lost worker), unchecked (error of a lost validation), idle_limit, stalled_limit: what the supervisor does when nobody renews a lease
local id = arg.job
local state = field(id, 'state')
if redis.call('EXISTS', key('lease', id)) == 1 then return {'held'} end
if state == 'validating' then
  set(id, 'error', arg.unchecked)
  say(id, 'error', 'VALIDATION_LOST', cjson.decode(arg.unchecked).message, 0)
  -- The same request makes it anew. A sweep's cells keep their places, by requests of their own.
  local request, sweep = field(id, 'request'), cjson.decode(field(id, 'spec')).sweep
  if request ~= '' and (sweep or '') == '' then
    redis.call('DEL', request)
    set(id, 'request', '')
  end
  go(id, 'failed')
  return {'ended'}
end
if not HELD[state] then return {'held'} end
local worker = field(id, 'worker')
local answer = end_attempt(id, 'worker_lost', 'Worker ' .. worker .. ' stopped renewing its lease at step ' .. field(id, 'step')
  .. '; the last checkpoint is ' .. (field(id, 'last_checkpoint') ~= '' and field(id, 'last_checkpoint') or 'none') .. '.',
  arg.lost, true, arg.idle_limit, arg.stalled_limit)
if answer then return answer end
return {'ended'}
